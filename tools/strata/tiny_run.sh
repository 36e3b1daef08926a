# A model and a text so small that a step takes milliseconds: sourced by what
# starts ranks of it, in an empty folder. Sets `train`, the command without its
# steps, checkpoints and mesh.

mkdir -p data/a data/b
for i in {1..400}; do echo "for (int i = 0; i < $i; ++i) sum += x[i];"; done >data/a/code.txt
for i in {1..400}; do echo "one two three four $i five six seven."; done >data/b/prose.txt

train=(train --preset=demo --data=data --threads=1 --set model.d_model=32 --set model.num_layers=1
  --set model.attention.num_heads=2 --set model.attention.num_kv_heads=1 --set model.attention.head_dim=16
  --set train.seq_len=32 --set train.batch_size=2 --set train.accumulation=2
  --set train.validation_tokens=128)

fail() {
  echo "$*" >&2
  exit 1
}
# "step loss" of each step of a run.
losses() { sed -nE '/"kind":"step"/s/.*"loss":([^,}]*).*"step":([0-9]+).*/\2 \1/p' "$1/metrics.jsonl"; }
# That two checkpoints of the same ranks have the same tensors, bit for bit.
same_files() {
  local file
  ls "$1"/model*.safetensors "$1"/optimizer*.safetensors >/dev/null || return 1
  for file in "$1"/model*.safetensors "$1"/optimizer*.safetensors; do
    cmp "$file" "$2/${file##*/}" || return 1
  done
}
