#!/bin/bash
# Runs the suite of communicators on 1 to 4 ranks.
set -euo pipefail

suite=$1
# mpirun keeps files under its process's number there: of this test alone, as
# numbers are those of a sandbox, and short, as sockets want it.
TMPDIR=$(mktemp -d /tmp/XXXXXX)
trap 'rm -rf "$TMPDIR"' EXIT
export HOME=${HOME:-$TEST_TMPDIR} TMPDIR
for ranks in 1 2 3 4; do
  out=$(mpirun --allow-run-as-root --oversubscribe --bind-to none -np "$ranks" "$suite")
  printf '%s\n' "$out"
  # A world that fell apart into several of one rank would pass, too.
  (($(grep -c "of $ranks: 0 failures" <<<"$out") == ranks)) || exit 1
done

# A rank that sleeps is named by the two that wait. Ranks end without MPI, which
# mpirun takes for a fault.
out=$(mpirun --allow-run-as-root --oversubscribe --bind-to none -np 3 "$suite" late) || true
printf '%s\n' "$out"
(($(grep -c 'names the sleeper' <<<"$out") == 2)) || exit 1

# One that is stopped before the end of MPI holds the others up for their
# time-out, and is named; the status says that not all ended.
if out=$(timeout 60 mpirun --allow-run-as-root --oversubscribe --bind-to none -np 3 "$suite" stopped 2>&1); then
  echo "status 0 with a rank that never ended" && exit 1
fi
printf '%s\n' "$out"
grep -q 'cannot end: .*; rank 1 was last heard of' <<<"$out"

# Without mpirun: a world of one.
"$suite" | grep -q 'rank 0 of 1: 0 failures'
