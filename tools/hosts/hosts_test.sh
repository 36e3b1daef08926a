#!/bin/bash
# Two hosts apart (hosts.sh): ranks over a link that loses packets train as one
# does, and who sleeps on the other host is named. Skipped where no namespaces
# can be made.
set -euo pipefail

here=$PWD/tools/hosts
proxy=$PWD/$1 mesh_losses=$PWD/$2 suite=$PWD/$3
source "$here/hosts.sh"
missing=$(hosts_missing)
if [[ -n $missing ]]; then
  echo "skipped: $missing"
  echo "<testsuites><testsuite name=\"hosts\" tests=\"1\"><testcase name=\"hosts\" status=\"run\" result=\"skipped\"><skipped message=\"$missing\"/></testcase></testsuite></testsuites>" >"$XML_OUTPUT_FILE"
  exit
fi
# mpirun's files, whose paths must be short, as sockets want it.
TMPDIR=$(mktemp -d -p /tmp)
trap 'leave_hosts; rm -rf "$TMPDIR"' EXIT
export HOME=${HOME:-$TEST_TMPDIR} TMPDIR
cd "$TEST_TMPDIR"
ranks() { on 1 mpirun -q --allow-run-as-root --oversubscribe --bind-to none "${over_hosts[@]}" "$@" </dev/null; }
fail() {
  echo "$*" >&2
  exit 1
}

"$mesh_losses" flat 1 1 1 1f1b 5 >one
join_hosts "$proxy" "$TMPDIR/hosts" 2 2 1 0.01 1
[[ $(ranks --host host1,host2 -np 2 hostname | sort | xargs) == "host1 host2" ]] || fail "no two hosts"
for i in 1 2; do
  ranks --host host1:2,host2:2 -np 4 "$mesh_losses" flat 1 2 2 1f1b 5 | sort >"two$i"
done
cmp two1 two2 || fail "two runs differ"
[[ $(grep -c ^step two1) == 5 && $(grep -c ^state two1) == 4 ]] || fail "$(cat two1)"
paste <(grep ^step one | sort) <(grep ^step two1) |
  awk '{ for (i = 2; i <= 5; ++i) { d = $i - $(i + 5); if (NF != 10 || d > 1e-9 || d < -1e-9) { print "differs: " $0; exit 1 } } }' >&2

# Rank 1 is alone on host 2; its end without a word is a fault to mpirun.
ranks --host host1:2,host2:1 --map-by node -np 3 "$suite" late >late || true
[[ $(grep -c 'names the sleeper: .*; rank 1 on host2 was last heard of' late) == 2 ]] || fail "$(cat late)"
