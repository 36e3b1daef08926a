#!/bin/bash
# strata launch: a rank that is killed, and one that hangs, cost the work since
# the last checkpoint and no bit of the result; who asks it to end loses none; what
# cannot work is one line.
set -euo pipefail

here=$PWD/tools/strata
strata=$PWD/$1
# mpirun keeps files under its process's number there: of this test alone, as
# numbers are those of a sandbox, and short, as sockets want it.
TMPDIR=$(mktemp -d -p /tmp)
trap 'rm -rf "$TMPDIR"' EXIT
export HOME=${HOME:-$TEST_TMPDIR} TMPDIR
cd "$TEST_TMPDIR"
source "$here/tiny_run.sh"
train+=(--set train.checkpoint_interval=50 --steps=1500 --dp=2 --timeout=4)
launch() { "$strata" launch --ranks=2 --mpirun=--oversubscribe --mpirun=-q "$@"; }
# The last process whose command line begins so.
process_of() {
  local folder
  for folder in /proc/[0-9]*; do
    { tr '\0' ' ' <"$folder/cmdline"; } 2>/dev/null | grep -qE "^$1" && echo "${folder#/proc/}"
  done | sort -n | tail -n 1
}
# The process of a rank of the run that writes to $1, once it is past step $2.
rank_past() {
  local step process
  for _ in {1..600}; do
    step=$({ losses "$1" | tail -n 1 | cut -d ' ' -f 1; } 2>/dev/null)
    if ((${step:-0} > $2)); then
      process=$(process_of "[^ ]*/strata train .*--out=$1")
      [[ -z $process ]] || { echo "$process" && return; }
    fi
    sleep 0.05
  done
  fail "$1 is not past step $2"
}

launch -- "${train[@]}" --out=whole >whole.out 2>&1 || fail "$(cat whole.out)"
[[ $(losses whole | wc -l) == 1500 ]] || fail "$(tail -n 3 whole.out)"

launch -- "${train[@]}" --out=hurt >hurt.out 2>hurt.err &
run=$!
kill -KILL "$(rank_past hurt 100)"
kill -STOP "$(rank_past hurt 700)"
# Asked to end, the ranks save where they are.
[[ -n $(rank_past hurt 1000) ]] || fail "$(cat hurt.err)"
kill -TERM "$(process_of "[^ ]*/strata launch .*--out=hurt")"
status=0
wait "$run" || status=$?
((status == 130)) || fail "status $status: $(cat hurt.err)"
step=$(losses hurt | tail -n 1 | cut -d ' ' -f 1)
grep -q "stopped after step $step of 1500 and saved hurt/step-$(printf %06d "$step")" hurt.err || fail "$(cat hurt.err)"
(($(grep -c '^note: the ranks ended with status .*; start .* from hurt/step-' hurt.err) == 2)) || fail "$(cat hurt.err)"

launch -- "${train[@]}" --resume --out=hurt >again.out 2>again.err || fail "$(cat again.err)"
grep -q '1500 of 1500 steps are done' again.out || fail "$(cat again.out)"
cmp <(losses whole) <(losses hurt) || fail "other losses"
same_files whole/step-001500 hurt/step-001500 || fail "other weights"

# $1: what is expected on stderr; the rest: a command that fails.
refuses() {
  local want=$1 status=0
  shift
  "$@" >/dev/null 2>refused || status=$?
  ((status != 0)) || fail "no error: $*"
  grep -qF "$want" refused || fail "$(cat refused)"
}
refuses 'has no --out' launch -- train --dp=2
refuses 'want train' launch -- demo
refuses 'twice before their first step' launch -- "${train[@]}" --out=no --set train.accumulation=3
