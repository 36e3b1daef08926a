#!/bin/bash
# Runs every fuzz target, one after another, each with the arguments that it was
# given: libFuzzer's flags, such as -max_total_time=600. Stops at the first
# finding, whose input lies in the folder that the command came from.
set -euo pipefail

fuzzers=$(dirname "$(readlink -f "$0")")/../..
cd "${BUILD_WORKING_DIRECTORY:-.}"
while read -r name; do
  printf 'fuzz: %s\n' "$name" >&2
  ASAN_OPTIONS=detect_leaks=1 "$fuzzers/$name" -artifact_prefix="${name##*/}." "$@"
done <<'END'
core/checkpoint/gguf/gguf_fuzz
core/checkpoint/hf_config_fuzz
core/checkpoint/safetensors_fuzz
core/tokenizer/chat_template_fuzz
core/tokenizer/tokenizer_fuzz
core/trace/routing_fuzz
serving/api/api_request_fuzz
sim/chakra/trace_fuzz
END
