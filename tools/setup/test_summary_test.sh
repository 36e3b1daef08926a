#!/bin/bash
# Feeds test_summary.py the events of a made-up run and compares what it prints.
set -euo pipefail

events=$TEST_TMPDIR/events
: >"$events"

# configured LABEL [TEST_SIZE]
configured() {
  echo "{\"id\":{\"targetConfigured\":{\"label\":\"$1\"}},\"configured\":{${2+\"testSize\":\"$2\"}}}" >>"$events"
}
# built LABEL [will-run]: a target that runs announces its summary.
built() {
  echo "{\"id\":{\"targetCompleted\":{\"label\":\"$1\"}},\"completed\":{\"success\":true},
    \"children\":[${2+{\"testSummary\":{\"label\":\"$1\"\}\}}]}" | tr -d '\n' >>"$events"
  echo >>"$events"
}
# summary LABEL STATUS
summary() {
  echo "{\"id\":{\"testSummary\":{\"label\":\"$1\"}},\"testSummary\":{\"overallStatus\":\"$2\"}}" >>"$events"
}
# result LABEL XML: the cases that a test ran.
result() {
  local file=$TEST_TMPDIR/${1##*:}.xml
  echo "$2" >"$file"
  echo "{\"id\":{\"testResult\":{\"label\":\"$1\"}},\"testResult\":{\"testActionOutput\":[
    {\"name\":\"test.xml\",\"uri\":\"file://$file\"}]}}" | tr -d '\n' >>"$events"
  echo >>"$events"
}
# expect STATUS LINES
expect() {
  local got
  got=$(python3 tools/setup/test_summary.py "$events" "$1")
  if [[ $got != "$2" ]]; then
    printf 'got\n%s\nwant\n%s\n' "$got" "$2" >&2
    exit 1
  fi
}

expect 1 $'FAILED bazel, see above\n0 passed, 1 failed, 0 skipped'

configured //a:library
built //a:library
configured //a:passes SMALL
built //a:passes will-run
summary //a:passes PASSED
configured //a:passes_at_last SMALL
built //a:passes_at_last will-run
summary //a:passes_at_last FLAKY
configured //a:some_cases_need_a_gpu SMALL
built //a:some_cases_need_a_gpu will-run
result //a:some_cases_need_a_gpu '<testsuite>
  <testcase status="run" result="skipped"/><testcase status="run" result="completed"/></testsuite>'
summary //a:some_cases_need_a_gpu PASSED
configured //a:all_cases_need_a_gpu SMALL
built //a:all_cases_need_a_gpu will-run
result //a:all_cases_need_a_gpu '<testsuite>
  <testcase status="run" result="skipped"/><testcase status="notrun" result="suppressed"/></testsuite>'
summary //a:all_cases_need_a_gpu PASSED
configured //a:filtered_out SMALL
built //a:filtered_out
configured //a:needs_cuda SMALL
echo '{"id":{"targetCompleted":{"label":"//a:needs_cuda"}},"aborted":{"reason":"SKIPPED"}}' >>"$events"
expect 0 '3 passed, 0 failed, 3 skipped'

configured //a:fails SMALL
built //a:fails will-run
summary //a:fails FAILED
configured //a:does_not_build SMALL
echo '{"id":{"targetCompleted":{"label":"//a:does_not_build"}},"completed":{}}' >>"$events"
configured //a:interrupted SMALL
built //a:interrupted will-run
configured //a:library_does_not_build
echo '{"id":{"targetCompleted":{"label":"//a:library_does_not_build"}},"aborted":{"reason":"ANALYSIS_FAILURE"}}' >>"$events"
expect 1 'FAILED //a:does_not_build
FAILED //a:fails
FAILED //a:interrupted
FAILED //a:library_does_not_build
3 passed, 4 failed, 3 skipped'
