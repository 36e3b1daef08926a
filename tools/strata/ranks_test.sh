#!/bin/bash
# Training under mpirun: the losses of one rank, a checkpoint that one rank goes
# on from, and one line for what cannot be.
set -euo pipefail

strata=$PWD/$1
export HOME=${HOME:-$TEST_TMPDIR} TMPDIR=/tmp  # Sockets want a short path.
cd "$TEST_TMPDIR"
mkdir -p data/a data/b
for i in {1..400}; do echo "for (int i = 0; i < $i; ++i) sum += x[i];"; done >data/a/code.txt
for i in {1..400}; do echo "one two three four $i five six seven."; done >data/b/prose.txt

train=(train --preset=demo --data=data --threads=1 --set model.d_model=32 --set model.num_layers=1
  --set model.attention.num_heads=2 --set model.attention.num_kv_heads=1 --set model.attention.head_dim=16
  --set train.seq_len=32 --set train.batch_size=2 --set train.accumulation=2
  --set train.validation_tokens=128 --set train.checkpoint_interval=3)
ranks() { mpirun -q --allow-run-as-root --oversubscribe --bind-to none -np "$1" "$strata" "${@:2}"; }
fail() {
  echo "$*" >&2
  exit 1
}
# Losses of a run's steps.
losses() { python3 -c '
import json, sys
for line in open(sys.argv[1] + "/metrics.jsonl"):
    step = json.loads(line)
    if "grad_norm" in step: print(step["step"], step["loss"])' "$1"; }

"$strata" "${train[@]}" --steps=6 --out=one >/dev/null 2>&1
ranks 2 "${train[@]}" --steps=6 --dp=2 --out=two >two.out 2>two.err || fail "$(cat two.err)"
[[ $(losses one | wc -l) == 6 ]] || fail "one rank has not 6 losses"
# Sums are rounded otherwise; a loss is about 5, of 7 digits.
paste <(losses one) <(losses two) |
  awk '{ d = $2 - $4; if ($1 != $3 || d > 1e-4 || d < -1e-4) { print "differs: " $0; bad = 1 } } END { exit bad }' >&2
[[ $(grep -c '6 of 6 steps are done' two.out) == 1 ]] || fail "$(cat two.out)"

"$strata" "${train[@]}" --steps=8 --resume=two/step-000006 --out=three >three.out 2>&1 || fail "$(cat three.out)"
grep -q '8 of 8 steps are done' three.out || fail "$(cat three.out)"

# $1: what is expected on stderr; the rest: a command that fails.
refuses() {
  local want=$1 status=0
  shift
  "$@" >/dev/null 2>refused || status=$?
  ((status != 0)) || fail "no error: $*"
  [[ $(grep -c "^strata: " refused) == 1 ]] || fail "not one line: $(cat refused)"
  grep -qF "$want" refused || fail "$(cat refused)"
}
refuses 'start it by mpirun -np 2' "$strata" "${train[@]}" --dp=2 --out=no
refuses 'has 3 ranks; 2 were started' ranks 2 "${train[@]}" --dp=3 --out=no
refuses 'training is over dp alone so far' ranks 2 "${train[@]}" --ep=2 --out=no
refuses 'want a multiple of dp = 2' ranks 2 "${train[@]}" --set train.accumulation=3 --dp=2 --out=no
refuses 'holds a run already' ranks 2 "${train[@]}" --dp=2 --out=two
[[ ! -e no ]] || fail "a refused run left a folder"
