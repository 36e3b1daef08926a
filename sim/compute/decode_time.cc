#include "sim/compute/decode_time.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/types/span.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/memory_cost.h"
#include "sim/compute/parameter.h"
#include "sim/compute/tile_cost.h"

namespace strata {
namespace {

constexpr double kSplitKeys = 128;           // of a part, at least
constexpr int64_t kMostGroupHeads = 32;      // that a group's kernel takes
constexpr int64_t kFp8GroupElements = 2048;  // of its queries in shared memory
constexpr double kGroupBlocksPerSm = 0.25;   // below, SMs idle: by query head
constexpr double kInstructionRows = 16;
constexpr int64_t kNarrowDim = 64;
constexpr double kLatentHeads = 64;  // of a block

using Spec = ParameterSpec<DecodeParameters>;
using P = DecodeParameters;

constexpr Spec kSpecs[] = {
    {"launch_us", [](P& p) -> double& { return p.launch_us; }, 5, 1, 60},
    {"narrow_us", [](P& p) -> double& { return p.narrow_us; }, 1, 0.01, 20},
    {"block_us", [](P& p) -> double& { return p.block_us; }, 1, 0.01, 20},
    {"block_dim", [](P& p) -> double& { return p.block_dim; }, 128, 8, 10000},
    {"block_heads", [](P& p) -> double& { return p.block_heads; }, 16, 1,
     10000},
    {"element_ns", [](P& p) -> double& { return p.element_ns; }, 2, 0.01, 200},
    {"block_gb_per_s", [](P& p) -> double& { return p.block_gb_per_s; }, 40, 2,
     400},
    {"math_share", [](P& p) -> double& { return p.math_share; }, 0.3, 0.001, 1},
    {"wave_share", [](P& p) -> double& { return p.wave_share; }, 0.5, 0.01, 1},
    {"blocks_per_sm", [](P& p) -> double& { return p.blocks_per_sm; }, 8, 0.5,
     64},
    {"split_us", [](P& p) -> double& { return p.split_us; }, 2, 0.05, 20},
    {"merge_ns", [](P& p) -> double& { return p.merge_ns; }, 30, 0.1, 2000},
    {"memory_share", [](P& p) -> double& { return p.memory_share; }, 0.9, 0.05,
     1},
    {"l2_gb_per_s", [](P& p) -> double& { return p.l2_gb_per_s; }, 8000, 500,
     30000},
    {"resident_share", [](P& p) -> double& { return p.resident_share; }, 0.5,
     0.05, 2},
    {"overlap", [](P& p) -> double& { return p.overlap; }, 2, 1, 16},
};

// What one call reads and computes.
struct Cache {
  double readers = 0;  // (sequence, head or group) pairs: blocks before a split
  double group = 1;    // query heads of a reader
  double keys = 0;     // read of a sequence
  double split_keys = 0;    // by which a context is split
  double dim = 0;           // mean of those of scores and of values
  double token_bytes = 0;   // of a key and its value
  double cache_bytes = 0;   // distinct ones
  double l2_bytes = 0;      // read through L2 by all readers
  double other_bytes = 0;   // q, output
  double merged_bytes = 0;  // of one part of all outputs, written and read
};

double CacheUs(const Device& device, const DecodeParameters& p, const Cache& c,
               Reuse reuse) {
  const double most = std::max(1.0, std::ceil(c.split_keys / kSplitKeys));
  const double split = std::clamp(
      std::floor(p.blocks_per_sm * device.num_sms / c.readers), 1.0, most);
  const double keys = std::ceil(c.keys / split);
  const double rows =
      c.group > 1 ? std::ceil(c.group / kInstructionRows) * kInstructionRows
                  : 1;
  const double ns_per_flop =
      device.num_sms / (device.bf16_flops * p.math_share) * 1e9;
  const double key_ns =
      p.element_ns * c.dim / 128 + std::max(4 * rows * c.dim * ns_per_flop,
                                            c.token_bytes / p.block_gb_per_s);
  const double start_us = p.block_us * (1 + c.dim / p.block_dim) *
                          (1 + (c.group > 1 ? c.group / p.block_heads : 0));
  const double blocks_us =
      Waves(c.readers * split, device.num_sms, p.wave_share) *
      (start_us + keys * key_ns * 1e-3);
  const double miss =
      MissShare(reuse, c.cache_bytes, p.resident_share * device.l2_bytes);
  const double l2_us = 1 / (p.l2_gb_per_s * 1e3);  // of a byte
  const double traffic_us =
      c.cache_bytes * miss / (p.memory_share * device.memory_bytes_per_s) *
          1e6 +
      (c.l2_bytes - c.cache_bytes * miss + c.other_bytes) * l2_us;
  double us = Overlapped(blocks_us, traffic_us, p.overlap);
  if (split > 1) {
    us += p.split_us + split * (p.merge_ns * 1e-3 + c.merged_bytes * l2_us);
  }
  return p.launch_us + us;
}

}  // namespace

absl::Span<const Spec> SpecsOf(const DecodeParameters&) { return kSpecs; }

const char* NameOf(DecodeKernel kernel) {
  switch (kernel) {
    case DecodeKernel::kPerQueryHead:
      return "per_query_head";
    case DecodeKernel::kPerGroup:
      return "per_group";
    case DecodeKernel::kPerGroupFp8:
      return "per_group_fp8";
  }
  return "";
}

DecodeKernel KernelOf(const Device& device, const AttentionDecode& shape) {
  const int64_t group = shape.heads / std::max<int64_t>(1, shape.kv_heads);
  if (group < 2 || group > kMostGroupHeads) return DecodeKernel::kPerQueryHead;
  if (shape.fp8_kv_cache && device.fp8_flops > 0 &&
      group * shape.head_dim <= kFp8GroupElements) {
    return DecodeKernel::kPerGroupFp8;
  }
  const double blocks = static_cast<double>(shape.batch) * shape.kv_heads *
                        std::max(1.0, std::floor(shape.context / kSplitKeys));
  return blocks < kGroupBlocksPerSm * device.num_sms
             ? DecodeKernel::kPerQueryHead
             : DecodeKernel::kPerGroup;
}

double DecodeUs(const Device& device, const DecodeParameters& p,
                const AttentionDecode& shape) {
  const DecodeKernel kernel = KernelOf(device, shape);
  const double batch = shape.batch, heads = shape.heads,
               kv_heads = shape.kv_heads, dim = shape.head_dim;
  const double group = heads / kv_heads;
  const bool by_head = kernel == DecodeKernel::kPerQueryHead;
  Cache c;
  c.readers = batch * (by_head ? heads : kv_heads);
  c.group = by_head ? 1 : group;
  c.keys =
      shape.window > 0 ? std::min(shape.context, shape.window) : shape.context;
  // That kernel splits the whole context, whatever the window.
  c.split_keys = kernel == DecodeKernel::kPerGroup ? shape.context : c.keys;
  c.dim = dim;
  c.token_bytes = 2 * dim * (shape.fp8_kv_cache ? 1 : 2);
  c.cache_bytes = batch * kv_heads * c.keys * c.token_bytes;
  c.l2_bytes = c.cache_bytes * (by_head ? group : 1);
  c.other_bytes = batch * (2 * heads + 2 * kv_heads) * dim * 2;
  c.merged_bytes = batch * heads * dim * 8;
  return CacheUs(device, p, c, shape.reuse) +
         (shape.head_dim <= kNarrowDim ? p.narrow_us : 0);
}

double LatentDecodeUs(const Device& device, const DecodeParameters& p,
                      const LatentDecode& shape) {
  const double batch = shape.batch, heads = shape.heads;
  const double width = shape.latent + shape.rope;
  Cache c;
  c.readers = batch * std::ceil(heads / kLatentHeads);
  c.group = std::min(heads, kLatentHeads);
  c.keys = c.split_keys = shape.context;
  c.dim = (width + shape.latent) / 2;
  c.token_bytes = width * (shape.fp8_kv_cache ? 1 : 2);
  c.cache_bytes = batch * c.keys * c.token_bytes;
  c.l2_bytes = c.cache_bytes * std::ceil(heads / kLatentHeads);
  c.other_bytes = batch * heads * (width + shape.latent) * 2;
  c.merged_bytes = batch * heads * shape.latent * 8;
  return CacheUs(device, p, c, shape.reuse);
}

}  // namespace strata
