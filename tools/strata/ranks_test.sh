#!/bin/bash
# Training under mpirun: the losses of one rank, a checkpoint that one rank goes
# on from, and one line for what cannot be.
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
train+=(--set train.checkpoint_interval=3)
ranks() { mpirun -q --allow-run-as-root --oversubscribe --bind-to none -np "$1" "$strata" "${@:2}"; }

# That the runs have the same losses. Sums are rounded otherwise; a loss is about
# 5, of 7 digits.
same() {
  [[ $(losses "$1" | wc -l) == "$(losses "$2" | wc -l)" ]] || fail "$1 and $2 differ in steps"
  paste <(losses "$1") <(losses "$2") |
    awk '{ d = $2 - $4; if ($1 != $3 || d > 1e-4 || d < -1e-4) { print "differs: " $0; bad = 1 } } END { exit bad }' >&2
}

"$strata" "${train[@]}" --steps=6 --out=one >/dev/null 2>&1
ranks 2 "${train[@]}" --steps=6 --dp=2 --out=two >two.out 2>two.err || fail "$(cat two.err)"
[[ $(losses one | wc -l) == 6 ]] || fail "one rank has not 6 losses"
same one two
[[ $(grep -c '6 of 6 steps are done' two.out) == 1 ]] || fail "$(cat two.out)"

"$strata" "${train[@]}" --steps=8 --resume=two/step-000006 --out=three >three.out 2>&1 || fail "$(cat three.out)"
grep -q '8 of 8 steps are done' three.out || fail "$(cat three.out)"

# Experts shared out: the same losses, and checkpoints that any mesh goes on from.
ranks 2 "${train[@]}" --steps=6 --ep=2 --out=experts >experts.out 2>experts.err || fail "$(cat experts.err)"
same one experts
"$strata" "${train[@]}" --steps=8 --resume=experts/step-000006 --out=alone >alone.out 2>&1 || fail "$(cat alone.out)"
grep -q '8 of 8 steps are done' alone.out || fail "$(cat alone.out)"
ranks 2 "${train[@]}" --steps=8 --resume=one/step-000006 --ep=2 --out=again >again.out 2>&1 || fail "$(cat again.out)"
ranks 2 "${train[@]}" --steps=8 --resume=experts/step-000006 --dp=2 --shard-optimizer --out=other >other.out 2>&1 || fail "$(cat other.out)"
grep -q '8 of 8 steps are done' again.out other.out || fail "$(cat again.out other.out)"

# Exchanges beside other work: to the bit the losses of two ranks that wait for
# each, and traces that the simulator reads.
beside=(--overlap-sums --overlap-rows --set model.moe.shared_width=16)
ranks 2 "${train[@]}" --set model.moe.shared_width=16 --steps=6 --ep=2 --out=waits >waits.out 2>waits.err || fail "$(cat waits.err)"
ranks 2 "${train[@]}" "${beside[@]}" --steps=6 --ep=2 --trace=beside-traces --trace-steps=2 --out=beside >beside.out 2>beside.err || fail "$(cat beside.err)"
diff <(losses waits) <(losses beside) || fail "exchanges beside other work change losses"
"$strata" simulate --chakra beside-traces --cluster=h100x8 --json >beside.json 2>beside.err || fail "$(cat beside.err)"
ranks 2 "${train[@]}" --steps=6 --dp=2 --overlap-sums --shard-optimizer --out=owners >owners.out 2>owners.err || fail "$(cat owners.err)"
same one owners

# Experts that move in between: the same losses, a line for each gate that moves,
# and a checkpoint that one rank goes on from.
ranks 2 "${train[@]}" --steps=6 --ep=2 --rebalance=2 --out=moving >moving.out 2>moving.err || fail "$(cat moving.err)"
same one moving
grep -q 'experts moved' moving.err || fail "$(cat moving.err)"
grep '"rebalance":"moved"' moving/metrics.jsonl | grep -q '"bytes":[1-9].*"spread_after".*"spread_before"' || fail "$(cat moving/metrics.jsonl)"
"$strata" "${train[@]}" --steps=8 --resume=moving/step-000006 --out=still >still.out 2>&1 || fail "$(cat still.out)"
ranks 2 "${train[@]}" --steps=6 --ep=2 --rebalance=alarm --spare-experts=1 --out=copies >copies.out 2>copies.err || fail "$(cat copies.err)"
same one copies
# A checkpoint of several ranks is read by all that reads models; two of the same
# tensors are the same, however they are laid out; a shard of another is named.
[[ $(ls experts/step-000006/model-0000[12]-of-00002.safetensors | wc -l) == 2 ]] || fail "$(ls experts/step-000006)"
"$strata" generate --model=experts/step-000006 --prompt=one --max-new-tokens=4 >/dev/null 2>generate.err || fail "$(cat generate.err)"
"$strata" evaluate --model=experts/step-000006 --data=data --tokens=128 >/dev/null 2>evaluate.err || fail "$(cat evaluate.err)"
"$strata" "${train[@]}" --steps=6 --resume=experts/step-000006 --out=copied >copied.out 2>&1 || fail "$(cat copied.out)"
"$strata" verify experts/step-000006 copied/step-000006 >verify.out 2>&1 || fail "$(cat verify.out)"
cp -r experts/step-000006 mixed
cp experts/step-000003/model-00002-of-00002.safetensors mixed/

# Stages: two layers, the losses of one rank, a checkpoint that one goes on from.
deep=("${train[@]}" --set model.num_layers=2)
"$strata" "${deep[@]}" --steps=4 --out=deep >/dev/null 2>&1
ranks 4 "${deep[@]}" --steps=4 --ep=2 --pp=2 --schedule=zb-h1 --out=stages >stages.out 2>stages.err || fail "$(cat stages.err)"
same deep stages
# Sums of stages beside what they still do: the same losses, to the bit.
ranks 4 "${deep[@]}" --steps=4 --ep=2 --pp=2 --schedule=zb-h1 --overlap-sums --trace=sums-traces --trace-steps=2 --out=sums >sums.out 2>sums.err || fail "$(cat sums.err)"
diff <(losses stages) <(losses sums) || fail "sums of stages beside other work change losses"
"$strata" simulate --chakra sums-traces --cluster=h100x8 --json >sums.json 2>sums.err || fail "$(cat sums.err)"
# How far each layer's gradient is behind, whatever the mesh.
vanishing() { sed -nE '/"kind":"step"/s/.*"vanishing_index":\[([^]]*)\].*/\1/p' "$1/metrics.jsonl"; }
[[ $(vanishing stages | wc -l) == 4 ]] || fail "no index of vanishing gradients: $(cat stages/metrics.jsonl)"
paste -d, <(vanishing deep) <(vanishing stages) |
  awk -F, '{ for (i = 1; i <= 2; ++i) { d = $i - $(i + 2); if (NF != 4 || d > 1e-3 || d < -1e-3) { print "differs: " $0; exit 1 } } }' >&2
"$strata" "${deep[@]}" --steps=5 --resume=stages/step-000004 --out=whole >whole.out 2>&1 || fail "$(cat whole.out)"
ranks 2 "${deep[@]}" --steps=5 --resume=deep/step-000004 --pp=2 --shard-optimizer --out=cut >cut.out 2>&1 || fail "$(cat cut.out)"
grep -q '5 of 5 steps are done' cut.out || fail "$(cat cut.out)"

# Several stages a rank: each stage on one rank or on two.
four=("${train[@]}" --set model.num_layers=4 --set train.accumulation=8)
"$strata" "${four[@]}" --steps=4 --out=four >/dev/null 2>&1
ranks 2 "${four[@]}" --steps=4 --pp=2 --schedule=interleaved --out=interleaved >interleaved.out 2>interleaved.err || fail "$(cat interleaved.err)"
same four interleaved
ranks 4 "${four[@]}" --steps=4 --ep=2 --pp=2 --schedule=dualpipe --out=dualpipe >dualpipe.out 2>dualpipe.err || fail "$(cat dualpipe.err)"
same four dualpipe
ranks 2 "${four[@]}" --steps=5 --resume=dualpipe/step-000004 --pp=2 --schedule=dualpipev --shard-optimizer --out=dualpipev >dualpipev.out 2>&1 || fail "$(cat dualpipev.out)"
grep -q '5 of 5 steps are done' dualpipev.out || fail "$(cat dualpipev.out)"

# What ranks did, as the simulator reads it; routing of all, as one rank's.
ranks 4 "${deep[@]}" --steps=4 --ep=2 --pp=2 --trace=traces --trace-steps=2 --record-routing=stages.gz --record-tokens --out=traced >traced.out 2>traced.err || fail "$(cat traced.err)"
grep -q 'trace       traces, 2 steps in' traced.out || fail "$(cat traced.out)"
[[ $(ls traces) == $'train.0.et\ntrain.1.et\ntrain.2.et\ntrain.3.et' ]] || fail "$(ls traces)"
"$strata" simulate --chakra traces --cluster=h100x8 --json >replayed.json 2>replay.err || fail "$(cat replay.err)"
"$strata" calibrate --traces=traces --out=machine.json >calibrated.out 2>calibrate.err || fail "$(cat calibrate.err)"
grep -q '^GroupedMatMul ' calibrated.out || fail "$(cat calibrated.out)"
"$strata" simulate --chakra traces --machine=machine.json >predicted.out 2>predict.err || fail "$(cat predict.err)"
grep -q 'ranks: 4, nodes: .* on machine.json' predicted.out || fail "$(cat predicted.out)"
"$strata" "${deep[@]}" --steps=4 --record-routing=deep.gz --record-tokens --out=routed >routed.out 2>&1 || fail "$(cat routed.out)"
# Loads of all records, to three digits: a choice may change with a rounding.
loads() { "$strata" trace "$1" | sed -nE '/^(layer|[0-9]+\.[0-9]+ )/p; s/^(records.*tokens, 1 rank).*/\1/p'; }
[[ $(loads stages.gz | wc -l) -ge 4 ]] || fail "$("$strata" trace stages.gz)"
diff <(loads deep.gz | cut -c1-24) <(loads stages.gz | cut -c1-24) || fail "routing traces differ"

# $1: what is expected on stderr; the rest: a command that fails.
refuses() {
  local want=$1 status=0
  shift
  "$@" >/dev/null 2>refused || status=$?
  ((status != 0)) || fail "no error: $*"
  [[ $(grep -c "^strata: " refused) == 1 ]] || fail "not one line: $(cat refused)"
  grep -qF -- "$want" refused || fail "$(cat refused)"
}
refuses 'start it by mpirun -np 2' "$strata" "${train[@]}" --dp=2 --out=no
refuses 'has 3 ranks; 2 were started' ranks 2 "${train[@]}" --dp=3 --out=no
refuses 'there are 1 layers; want at least pp = 2' ranks 2 "${train[@]}" --pp=2 --out=no
refuses '--schedule=dualpipe has each stage on two ranks; --pp is 3, want an even number' ranks 3 "${train[@]}" --pp=3 --schedule=dualpipe --out=no
refuses '--schedule=dualpipe wants an even number of at least 2 x pp = 4 micro-batches, train.accumulation over dp x ep, in a step; there are 2' ranks 2 "${four[@]}" --set train.accumulation=2 --pp=2 --schedule=dualpipe --out=no
refuses '--schedule=interleaved has 3 stages on each of pp = 2 ranks; there are 4 layers, want at least 6' ranks 2 "${four[@]}" --pp=2 --schedule=interleaved --chunks=3 --out=no
refuses '--schedule=interleaved gives each rank of a pipeline several stages, and --pp is 1' "$strata" "${train[@]}" --schedule=interleaved --out=no
refuses '--schedule=1f1b gives a rank 1 stage; --chunks is 2' ranks 2 "${four[@]}" --pp=2 --chunks=2 --out=no
refuses 'experts; want a multiple of ep = 3' ranks 3 "${train[@]}" --set train.accumulation=3 --ep=3 --out=no
refuses 'want a multiple of dp x ep = 2' ranks 2 "${train[@]}" --set train.accumulation=3 --dp=2 --out=no
refuses '--rebalance moves experts between the ranks of --ep, and --ep is 1' ranks 2 "${train[@]}" --dp=2 --rebalance=alarm --out=no
refuses '--rebalance is sometimes; want alarm, never or a number of steps' ranks 2 "${train[@]}" --ep=2 --rebalance=sometimes --out=no
refuses '--spare-experts are for copies' ranks 2 "${train[@]}" --ep=2 --spare-experts=1 --out=no
refuses 'mixed/model-00002-of-00002.safetensors is of step 3 of run' ranks 2 "${train[@]}" --steps=8 --resume=mixed --ep=2 --out=no
refuses 'mixed/model-00002-of-00002.safetensors is of step 3 of run' "$strata" generate --model=mixed --prompt=one
refuses 'traces is not empty' "$strata" "${train[@]}" --steps=6 --trace=traces --out=no
refuses '--trace-after and --trace-steps are 2 and 9, and 6 steps are left' "$strata" "${train[@]}" --steps=6 --trace=none --trace-steps=9 --out=no
refuses 'a routing trace is replayed by one rank so far' ranks 2 "${train[@]}" --steps=6 --dp=2 --replay-routing=deep.gz --out=no
# Two ranks that were not started alike: the second has the text of folder $1 and
# what else is given.
unlike() {
  local first=("$strata" "${train[@]}" --dp=2 --out=no)
  mpirun -q --allow-run-as-root --oversubscribe --bind-to none -np 1 "${first[@]}" : \
    -np 1 "${first[@]/--data=data/--data=$1}" "${@:2}"
}
cp -r data other && echo more >>"$(find other -type f | head -1)"
refuses 'rank 1: --seed is 4, on rank 0 not given; start all ranks alike' unlike data --seed=4
refuses 'rank 1: --shard-optimizer is true, on rank 0 not given; start all ranks alike' unlike data --shard-optimizer
refuses 'rank 1: the hash of the text is' unlike other
refuses '--steps: 0 is no whole number of at least 1' ranks 2 "${train[@]}" --dp=2 --steps=0 --out=no
refuses 'holds a run already' ranks 2 "${train[@]}" --dp=2 --out=two
[[ ! -e no ]] || fail "a refused run left a folder"
