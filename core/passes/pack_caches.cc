#include "core/passes/pack_caches.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"
#include "core/ops/packed_cache.h"
#include "core/ops/paged_attention.h"
#include "core/quant/cache_format.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// An operator of attention over a cache, by its inputs: q, then k and v or
// latents, then what says where they are.
struct Attend {
  const OpDef* op;
  bool latent;
  bool paged;

  int num_caches() const { return latent ? 1 : 2; }
};
constexpr int kNumAttends = 4;
const Attend* FindAttend(const Node& node) {
  static const Attend kAttends[kNumAttends] = {
      {&kCachedAttention, false, false},
      {&kPagedAttention, false, true},
      {&kCachedLatentAttention, true, false},
      {&kPagedLatentAttention, true, true}};
  for (const Attend& attend : kAttends) {
    if (node.op->name == attend.op->name) return &attend;
  }
  return nullptr;
}

bool IsWrite(const Node& node) { return node.op->name == kCacheWrite.name; }

// The heads of each cache that is attended to.
using HeadsOf = absl::flat_hash_map<ValueId, int64_t>;

absl::StatusOr<HeadsOf> FindCaches(const Graph& graph) {
  HeadsOf heads;
  for (const Node& node : graph.nodes()) {
    const Attend* const attend = FindAttend(node);
    if (attend == nullptr) continue;
    for (int i = 1; i <= attend->num_caches(); ++i) {
      heads[node.inputs[i]] =
          attend->latent ? 1 : node.attrs.Int("num_kv_heads");
    }
  }
  for (const Node& node : graph.nodes()) {
    const Attend* const attend = FindAttend(node);
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id == kNone || heads.count(id) == 0) continue;
      const bool written = IsWrite(node) && i == 0;
      const bool read = attend != nullptr && i >= 1 &&
                        static_cast<int>(i) <= attend->num_caches();
      if (written || read) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "the graph has ", node.op->name, " of ", graph.value(id).name,
          ", which is a cache to be packed"));
    }
  }
  for (const auto& [id, count] : heads) {
    const Value& value = graph.value(id);
    if (value.role == Role::kState && value.type.dtype == DType::kF32) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(value.name, " is ", ToText(graph, value.type),
                     "; want a state in F32, to be packed"));
  }
  return heads;
}

// `attend` in its packed form.
Node Packed(const Graph& graph, const Node& node, const Attend& attend,
            const CacheOptions& cache) {
  PackedAttentionOptions options;
  options.cache = cache;
  options.heads.num_heads = node.attrs.Int("num_heads");
  options.heads.num_kv_heads =
      attend.latent ? 1 : node.attrs.Int("num_kv_heads");
  options.heads.scale = node.attrs.Float("scale");
  options.heads.window = node.attrs.Int("window");
  options.value_dim = attend.latent
                          ? node.attrs.Int("rank")
                          : graph.value(node.inputs[2]).type.dims[1].bound /
                                options.heads.num_kv_heads;
  if (attend.paged) options.block_size = node.attrs.Int("block_size");
  const int where = 1 + attend.num_caches();
  Node packed = node;
  packed.op = &kPackedAttention;
  packed.attrs = PackedAttentionAttrs(options);
  packed.inputs = {node.inputs[0],
                   node.inputs[1],
                   attend.latent ? kNone : node.inputs[2],
                   attend.paged ? node.inputs[where] : kNone,
                   node.inputs[where + (attend.paged ? 1 : 0)],
                   node.inputs.back()};
  return packed;
}

}  // namespace

absl::StatusOr<Graph> PackCaches(const Graph& graph,
                                 const CacheOptions& options) {
  RETURN_IF_ERROR(CheckCacheOptions(options));
  if (!options.packed()) return graph;
  ASSIGN_OR_RETURN(const HeadsOf heads, FindCaches(graph));
  Graph packed;
  for (size_t id = 0; id < graph.values().size(); ++id) {
    Value value = graph.value(id);
    if (const auto it = heads.find(id); it != heads.end()) {
      value.type.dtype = DType::kU8;
      value.type.dims[1] = Static(
          CacheRowBytes(options.format, it->second, value.type.dims[1].bound));
    }
    packed.AddValue(std::move(value));
  }
  for (Node node : graph.nodes()) {
    if (const Attend* const attend = FindAttend(node)) {
      node = Packed(graph, node, *attend, options);
    } else if (IsWrite(node) && heads.count(node.inputs[0]) > 0) {
      node.op = &kPackedCacheWrite;
      node.attrs = PackedCacheWriteAttrs(heads.at(node.inputs[0]), options);
    }
    packed.AddNode(std::move(node));
  }
  for (const auto& [name, value] : graph.outputs()) {
    packed.SetOutput(name, value);
  }
  return packed;
}

}  // namespace strata
