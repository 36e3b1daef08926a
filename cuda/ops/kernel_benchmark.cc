// bazel run --config=cuda -c opt //cuda/ops:kernel_benchmark
//
// Hopper's kernels by themselves, on BF16 operands in memory: time is the
// device's, between two events about one call, or an eighth of it about eight
// calls in a row. Operands are random; each case has more of them than L2
// holds, decode attention several caches in turn.
//
//   alone_us    one call by itself, with the host's part of its launches
//   rested_us   of six calls behind three, of a device that was idle
//   of_copy     bytes a second over those of a copy on this GPU, in this run
//   h200_us     the best published for an H200 and for an H100 (TensorRT-LLM,
//   h100_us     vLLM, SGLang), of a whole MoE layer, of decode attention, also
//               over latents, and of the attention of MLA's prefill;
//               of_h200, of_h100: how many times as fast this is

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cuda/kernels/causal_attention.h"
#include "cuda/kernels/causal_attention_grad.h"
#include "cuda/kernels/grouped_product.h"
#include "cuda/ops/cache/packed_cache.h"
#include "cuda/ops/cache/packed_decode.h"
#include "cuda/ops/decode/few_experts.h"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/dispatch_plan.h"
#include "cuda/ops/expert_layer.h"
#include "cuda/ops/heads/decode_attention.h"
#include "cuda/testing/benchmark_set.h"
#include "cuda/testing/expert_choices.h"
#include "cuda/testing/timed_calls.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// Loads differ as those of a gate do: shares are exp(normal / 2).
std::vector<int32_t> Offsets(int64_t experts, int64_t rows) {
  std::mt19937 rng(7);
  std::normal_distribution<double> normal;
  std::vector<double> share(experts);
  for (double& x : share) x = std::exp(normal(rng) / 2);
  std::discrete_distribution<int> pick(share.begin(), share.end());
  std::vector<int32_t> offset(experts + 1);
  for (int64_t i = 0; i < rows; ++i) ++offset[pick(rng) + 1];
  for (int64_t e = 0; e < experts; ++e) offset[e + 1] += offset[e];
  return offset;
}

void AddGrouped(int64_t experts, int64_t rows, int64_t k, int64_t n) {
  const double flops = 2.0 * rows * k * n;
  const double weights = 2.0 * experts * n * k, moved = 2.0 * rows * (n + k);
  const std::string shape =
      absl::StrCat("/experts:", experts, "/rows:", rows, "/k:", k, "/n:", n);
  for (const bool forward : {true, false}) {
    AddTimed(absl::StrCat(forward ? "BM_GroupedProduct" : "BM_GroupedInputGrad",
                          shape),
             flops, weights + moved, [=](Arrays& arrays) -> Call {
               GroupedProductArgs args;
               args.rows = {rows, nullptr};
               args.num_experts = static_cast<int>(experts);
               args.n = forward ? n : k;
               args.k = forward ? k : n;
               args.x = arrays.Normal(rows * args.k);
               args.w = arrays.Normal(experts * n * k);
               args.transposed = forward;
               args.offset = arrays.Copy(Offsets(experts, rows));
               args.y = arrays.Make<__nv_bfloat16>(rows * args.n);
               args.bf16_y = true;
               return [=](int64_t) { return GroupedProduct(args, nullptr); };
             });
  }
  // F32 results: 4 bytes a weight.
  AddTimed(absl::StrCat("BM_GroupedWeightGrad", shape), flops,
           2 * weights + moved, [=](Arrays& arrays) -> Call {
             GroupedWeightGradArgs args;
             args.rows = {rows, nullptr};
             args.num_experts = static_cast<int>(experts);
             args.n = n;
             args.k = k;
             args.dy = arrays.Normal(rows * n);
             args.x = arrays.Normal(rows * k);
             args.offset = arrays.Copy(Offsets(experts, rows));
             args.dw = arrays.Make<float>(experts * n * k);
             return [=](int64_t) { return GroupedWeightGrad(args, nullptr); };
           });
}

struct Heads {
  int64_t batch, tokens, heads, kv_heads, key_dim, value_dim;
};

CausalAttentionArgs MakeAttention(const Heads& h, Arrays& arrays) {
  const int64_t t = h.batch * h.tokens;
  std::vector<int32_t> start;
  for (int64_t i = 0; i <= h.batch; ++i) {
    start.push_back(static_cast<int32_t>(i * h.tokens));
  }
  CausalAttentionArgs args;
  args.tokens = {t, nullptr};
  args.num_heads = static_cast<int>(h.heads);
  args.num_kv_heads = static_cast<int>(h.kv_heads);
  args.key_dim = static_cast<int>(h.key_dim);
  args.value_dim = static_cast<int>(h.value_dim);
  args.scale = static_cast<float>(1 / std::sqrt(h.key_dim));
  args.seq_start = arrays.Copy(start);
  args.num_sequences = static_cast<int>(h.batch);
  args.q = arrays.Normal(t * h.heads * h.key_dim);
  args.k = arrays.Normal(t * h.kv_heads * h.key_dim);
  args.v = arrays.Normal(t * h.kv_heads * h.value_dim);
  args.o = arrays.Make<__nv_bfloat16>(t * h.heads * h.value_dim);
  args.bf16_o = true;
  args.lse = arrays.Make<float>(t * h.heads);
  return args;
}

// FLOPs are those of the half of all pairs that is seen; what the gradient
// computes again is not counted, so five products and not seven.
void AddAttention(const Heads& h, const Published& best = {}) {
  const double pairs = 1.0 * h.batch * h.heads * h.tokens * h.tokens;
  const double rows = 2.0 * h.batch * h.tokens * (h.key_dim + h.value_dim);
  const std::string shape =
      absl::StrCat("/batch:", h.batch, "/tokens:", h.tokens, "/heads:", h.heads,
                   "/", h.kv_heads, "/dim:", h.key_dim, "/", h.value_dim);
  AddTimed(
      absl::StrCat("BM_CausalAttention", shape),
      pairs * (h.key_dim + h.value_dim), rows * (h.heads + h.kv_heads),
      [=](Arrays& arrays) -> Call {
        const CausalAttentionArgs args = MakeAttention(h, arrays);
        return [=](int64_t) { return CausalAttention(args, nullptr); };
      },
      best);
  if (!HasCausalAttentionGrad(h.key_dim, h.value_dim)) return;
  AddTimed(absl::StrCat("BM_CausalAttentionGrad", shape),
           pairs * (3 * h.key_dim + 2 * h.value_dim),
           rows * (3 * h.heads + 3 * h.kv_heads), [=](Arrays& arrays) -> Call {
             const CausalAttentionArgs forward = MakeAttention(h, arrays);
             CHECK(CausalAttention(forward, nullptr) == cudaSuccess);
             const int64_t t = forward.tokens.bound;
             CausalAttentionGradArgs args;
             static_cast<CausalAttentionShape&>(args) = forward;
             args.dout = arrays.Normal(t * h.heads * h.value_dim);
             args.lse = forward.lse;
             args.delta = arrays.Copy(std::vector<float>(t * h.heads, 0.25f));
             args.stats = arrays.Make<float>(AttentionStatsFloats(t, h.heads));
             args.dq = arrays.Make<float>(t * h.heads * h.key_dim);
             args.dk = arrays.Make<float>(t * h.kv_heads * h.key_dim);
             args.dv = arrays.Make<float>(t * h.kv_heads * h.value_dim);
             return [=](int64_t) { return CausalAttentionGrad(args, nullptr); };
           });
}

// `batch` sequences of `keys` tokens, all of which are seen: in rows, or in
// blocks of so many that lie anywhere.
CachePlaces PlacesOf(Arrays& arrays, int64_t batch, int64_t keys,
                     int64_t block_size) {
  CachePlaces places;
  places.position =
      arrays.Copy(std::vector<int32_t>(batch, static_cast<int32_t>(keys - 1)));
  places.slots = batch * keys;
  std::vector<int32_t> sequence(batch);
  std::iota(sequence.begin(), sequence.end(), 0);
  if (block_size == 0) {
    for (int32_t& s : sequence) s *= static_cast<int32_t>(keys);
    places.first_row = arrays.Copy(sequence);
    return places;
  }
  std::vector<int32_t> table(batch * keys / block_size);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  places.table = arrays.Copy(table);
  places.table_rows = batch;
  places.max_blocks = keys / block_size;
  places.block_size = block_size;
  places.sequence = arrays.Copy(sequence);
  return places;
}

// Of a cache, as names have it.
const char* FormatName(PackedFormat format) {
  return format == PackedFormat::kBf16   ? ""
         : format == PackedFormat::kInt8 ? "/int8"
                                         : "/int4";
}

// In BF16, or in codes: `format`'s.
void AddDecode(int64_t batch, int64_t keys, int64_t heads, int64_t kv_heads,
               int64_t dim, bool paged, const Published& best = {},
               PackedFormat format = PackedFormat::kBf16,
               bool in_bytes = false) {
  const int64_t rows = batch * keys;
  // Of keys, and of values, in numbers of two bytes: what scales and codes are
  // made of does not matter here.
  const int64_t elements =
      rows * kv_heads * (dim / kPackedGroup) * PackedGroupBytes(format) / 2;
  const double bytes = 4.0 * elements;
  const bool bf16 = format == PackedFormat::kBf16;
  AddTimed(
      absl::StrCat("BM_DecodeAttention/batch:", batch, "/keys:", keys,
                   "/heads:", heads, "/", kv_heads, "/dim:", dim,
                   paged ? "/blocks_of:16" : "/rows", FormatName(format),
                   in_bytes ? "/in_bytes" : ""),
      /*flops=*/0, bytes,
      [=](Arrays& arrays) -> Call {
        // Four times what L2 holds, at least.
        const int64_t caches = 1 + static_cast<int64_t>((200 << 20) / bytes);
        std::vector<const void*> k, v;
        for (int64_t i = 0; i < caches; ++i) {
          k.push_back(arrays.Normal(elements));
          v.push_back(arrays.Normal(elements));
        }
        DecodeAttentionArgs args;
        args.tokens = {batch, nullptr};
        args.num_heads = static_cast<int>(heads);
        args.num_kv_heads = static_cast<int>(kv_heads);
        args.dim = static_cast<int>(dim);
        args.scale = static_cast<float>(1 / std::sqrt(dim));
        args.max_keys = keys;
        args.q = arrays.Copy(NormalFloats(batch * heads * dim));
        args.bf16_cache = true;
        args.places = PlacesOf(arrays, batch, keys, paged ? 16 : 0);
        if (in_bytes) {
          args.kv_heads_of_block = PackedHeadsOfBlock(args, format);
        }
        const int64_t pieces = DecodePieces(args);
        args.partial = arrays.Make<float>(pieces * dim);
        args.max = arrays.Make<float>(pieces);
        args.sum = arrays.Make<float>(pieces);
        args.ended = arrays.Copy(std::vector<int32_t>(DecodeCounters(args), 0));
        args.o = arrays.Make<float>(batch * heads * dim);
        args.fault = {arrays.Copy(std::vector<Fault>(1)), 0};
        return [=](int64_t i) mutable {
          args.k = k[i % caches];
          args.v = v[i % caches];
          if (bf16) return DecodeAttention(args, nullptr);
          return in_bytes ? PackedDecodeInBytes(args, format, nullptr)
                          : PackedDecode(args, format, nullptr);
        };
      },
      best, /*calls=*/8);
}

// A step of decoding with latent attention; places as above. Queries and
// results are BF16, of a BF16 cache alone, or F32. Sequences have so many keys,
// or any number up to that. Counted are both products of every head with every
// key.
void AddLatentDecode(int64_t batch, int64_t keys, int64_t heads, bool paged,
                     bool bf16, const Published& best = {}, bool uneven = false,
                     PackedFormat format = PackedFormat::kBf16) {
  std::vector<int32_t> position(batch, static_cast<int32_t>(keys - 1));
  std::mt19937 rng(1);
  for (int32_t& last : position) {
    if (uneven) last = static_cast<int32_t>(rng() % keys);
  }
  const int64_t rows = std::accumulate(position.begin(), position.end(), batch);
  const int64_t row_bytes = PackedHeadBytes(format, kLatentWidth);
  // Numbers of two bytes: what scales and codes are made of does not matter.
  const int64_t elements = batch * keys * row_bytes / 2;
  const auto bytes = static_cast<double>(rows * row_bytes);
  const double flops = 2.0 * rows * heads * (kLatentWidth + kLatentRank);
  AddTimed(
      absl::StrCat("BM_LatentDecode/batch:", batch,
                   uneven ? "/keys:1_to_" : "/keys:", keys, "/heads:", heads,
                   paged ? "/blocks_of:64" : "/rows",
                   bf16 ? "/q:bf16" : "/q:f32", FormatName(format)),
      flops, bytes,
      [=](Arrays& arrays) -> Call {
        const int64_t caches = 1 + static_cast<int64_t>((200 << 20) / bytes);
        std::vector<const void*> cache;
        for (int64_t i = 0; i < caches; ++i) {
          cache.push_back(arrays.Normal(elements));
        }
        LatentDecodeArgs args;
        args.tokens = {batch, nullptr};
        args.num_heads = static_cast<int>(heads);
        args.scale = 0.04f;
        args.max_keys = keys;
        if (bf16) {
          args.bf16_q = arrays.Normal(batch * heads * kLatentWidth);
          args.rounded =
              arrays.Make<__nv_bfloat16>(batch * heads * kLatentRank);
        } else {
          args.q = arrays.Copy(NormalFloats(batch * heads * kLatentWidth));
          args.o = arrays.Make<float>(batch * heads * kLatentRank);
        }
        args.format = format;
        args.places = PlacesOf(arrays, batch, keys, paged ? 64 : 0);
        args.places.position = arrays.Copy(position);
        const int64_t pieces = LatentPieces(args);
        args.partial = arrays.Make<float>(pieces * kLatentRank);
        args.max = arrays.Make<float>(pieces);
        args.sum = arrays.Make<float>(pieces);
        args.fault = {arrays.Copy(std::vector<Fault>(1)), 0};
        return [=](int64_t i) mutable {
          args.cache = cache[i % caches];
          return LatentDecode(args, nullptr);
        };
      },
      best, /*calls=*/8);
}

struct MoeShape {
  int64_t d, width, experts, k;
  // Only to see what random weights cost, which draw more power.
  bool zero_weights = false;
};

// From tokens, their experts and weights to their sums: plan, rows, both
// products with SwiGLU, combination. Loads are even, or drawn from a power law
// of exponent `alpha` where that is not 0. Bytes are those of the weights of
// experts that have rows, a mean over calls, and of x and y. Calls take other
// experts and other x in turn, so that few tokens' weights are not in L2
// either.
void AddMoeLayer(const MoeShape& m, int64_t tokens, const Published& best,
                 double alpha = 0) {
  constexpr int kInputs = 8;
  const int64_t slots = tokens * m.k;
  const double flops = 6.0 * slots * m.d * m.width;
  std::vector<std::vector<int32_t>> choices;
  double chosen = 0;
  for (int i = 0; i < kInputs; ++i) {
    const ChoiceShape shape = {tokens, m.experts, m.k};
    choices.push_back(alpha > 0 ? PowerLawChoices(shape, alpha, i)
                                : BalancedChoices(shape, i));
    chosen += static_cast<double>(NumChosen(choices.back())) / kInputs;
  }
  const double bytes = 6.0 * chosen * m.d * m.width + 4.0 * tokens * m.d;
  AddTimed(
      absl::StrCat("BM_MoeLayer/d:", m.d, "/experts:", m.experts, "/k:", m.k,
                   "/width:", m.width, "/tokens:", tokens,
                   alpha > 0 ? absl::StrCat("/power_law:", alpha) : "",
                   m.zero_weights ? "/zero_weights" : ""),
      flops, bytes,
      [=](Arrays& arrays) -> Call {
        const auto weights = [&](int64_t n) {
          return m.zero_weights ? arrays.Zeros(n) : arrays.Normal(n);
        };
        std::vector<const int32_t*> expert;
        std::vector<const __nv_bfloat16*> x;
        for (const std::vector<int32_t>& of_call : choices) {
          expert.push_back(arrays.Copy(of_call));
          x.push_back(arrays.Normal(tokens * m.d));
        }
        DispatchPlanArgs plan;
        plan.tokens = {tokens, nullptr};
        plan.k = static_cast<int>(m.k);
        plan.num_experts = static_cast<int>(m.experts);
        plan.row_slot = arrays.Make<int32_t>(slots);
        plan.slot_row = arrays.Make<int32_t>(slots);
        plan.offset = arrays.Make<int32_t>(m.experts + 1);
        plan.rows = arrays.Make<int32_t>(1);
        plan.scratch = arrays.Make<int32_t>(DispatchPlanScratch(plan));
        plan.fault = {arrays.Copy(std::vector<Fault>(1)), 0};
        ExpertLayerArgs layer;
        layer.tokens = plan.tokens;
        layer.k = plan.k;
        layer.num_experts = plan.num_experts;
        layer.d = m.d;
        layer.width = m.width;
        layer.bf16_x = layer.bf16_y = true;
        layer.weight = arrays.Copy(std::vector<float>(slots, 0.125f));
        layer.gate_up = weights(m.experts * 2 * m.width * m.d);
        layer.down = weights(m.experts * m.d * m.width);
        layer.slot_row = plan.slot_row;
        layer.offset = plan.offset;
        layer.rows = {slots, plan.rows};
        layer.y = arrays.Make<__nv_bfloat16>(tokens * m.d);
        layer.gathered = reinterpret_cast<__nv_bfloat16*>(
            arrays.Make<__nv_bfloat16>(slots * m.d));
        layer.hidden = reinterpret_cast<__nv_bfloat16*>(
            arrays.Make<__nv_bfloat16>(slots * m.width));
        layer.fault = plan.fault;
        return [=](int64_t i) mutable {
          layer.x = x[i % kInputs];
          plan.expert = layer.expert = expert[i % kInputs];
          if (slots > kMaxFewSlots) {
            const cudaError_t error = PlanDispatch(plan, nullptr);
            if (error != cudaSuccess) return error;
          }
          return ExpertLayer(layer, nullptr);
        };
      },
      best, /*calls=*/8);
}

// The same by the kernels for a few tokens, which begin with a gate's logits.
void AddFewExperts(const MoeShape& m, int64_t tokens, const Published& best) {
  const int64_t slots = tokens * m.k, active = std::min(m.experts, slots);
  const double flops = 6.0 * slots * m.d * m.width;
  const double bytes = 6.0 * active * m.d * m.width + 4.0 * tokens * m.d;
  AddTimed(
      absl::StrCat("BM_FewExperts/d:", m.d, "/experts:", m.experts, "/k:", m.k,
                   "/width:", m.width, "/tokens:", tokens),
      flops, bytes,
      [=](Arrays& arrays) -> Call {
        constexpr int kInputs = 8;
        std::vector<const float*> logits;
        std::vector<const __nv_bfloat16*> x;
        for (int i = 0; i < kInputs; ++i) {
          // As far as they go here, balanced choices have no expert twice.
          const std::vector<int32_t> list =
              BalancedChoices({tokens, m.experts, m.k}, i);
          std::vector<float> row(tokens * m.experts, -1.f);
          for (int64_t s = 0; s < slots; ++s) {
            row[s / m.k * m.experts + list[s]] = 1.f;
          }
          logits.push_back(arrays.Copy(row));
          x.push_back(arrays.Normal(tokens * m.d));
        }
        FewExpertsArgs args;
        args.choice.tokens = {tokens, nullptr};
        args.choice.k = static_cast<int>(m.k);
        args.choice.num_experts = static_cast<int>(m.experts);
        args.choice.normalize = true;
        args.choice.offset = arrays.Make<int32_t>(m.experts + 1);
        args.choice.rows = arrays.Make<int32_t>(1);
        args.counters = reinterpret_cast<ExpertCounters*>(
            arrays.Copy(std::vector<int32_t>(sizeof(ExpertCounters) / 4, 0)));
        args.d = m.d;
        args.width = m.width;
        args.gate_up = Bf16Rows(arrays.Normal(m.experts * 2 * m.width * m.d),
                                2 * m.width, m.d);
        args.down =
            Bf16Rows(arrays.Normal(m.experts * m.d * m.width), m.d, m.width);
        args.h = arrays.Make<float>(tokens * m.d);
        args.y = arrays.Make<float>(tokens * m.d);
        args.hidden = reinterpret_cast<__nv_bfloat16*>(
            arrays.Make<__nv_bfloat16>(slots * m.width));
        return [=](int64_t i) mutable {
          args.x = x[i % kInputs];
          args.choice.logits = logits[i % kInputs];
          return FewExperts(args, nullptr);
        };
      },
      best, /*calls=*/8);
}

void AddMoeLayers() {
  const MoeShape fine = {2048, 768, 128, 8};
  AddMoeLayer(fine, 1, {36.6, 50.7});
  AddMoeLayer(fine, 2, {0, 76.7});
  AddMoeLayer(fine, 8, {0, 224.7});
  AddMoeLayer(fine, 16, {292, 428.0});
  AddMoeLayer(fine, 64, {302, 0});
  AddMoeLayer(fine, 128, {0, 439.6});
  AddMoeLayer(fine, 512, {338, 0});
  AddMoeLayer(fine, 1024, {0, 552.0});
  AddMoeLayer(fine, 4096, {660, 881.9});
  AddMoeLayer(fine, 16384, {2377, 2783.4});
  constexpr double kAlpha = 1.2;
  AddMoeLayer(fine, 1, {36.3, 0}, kAlpha);
  AddMoeLayer(fine, 16, {150, 0}, kAlpha);
  AddMoeLayer(fine, 64, {287, 0}, kAlpha);
  AddMoeLayer(fine, 512, {351, 509.9}, kAlpha);
  AddMoeLayer(fine, 4096, {826, 1018.8}, kAlpha);
  AddMoeLayer(fine, 16384, {2515, 3116.6}, kAlpha);
  AddFewExperts(fine, 1, {36.6, 50.7});
  AddFewExperts(fine, 2, {0, 76.7});
  AddFewExperts(fine, 8, {0, 224.7});
  const MoeShape mixtral = {4096, 14336, 8, 2};
  AddMoeLayer(mixtral, 1, {189, 0});
  AddMoeLayer(mixtral, 64, {673, 970.9});
  AddMoeLayer(mixtral, 1024, {1001, 1257.2});
  AddMoeLayer(mixtral, 4096, {3595, 0});
  MoeShape zeros = mixtral;
  zeros.zero_weights = true;
  AddMoeLayer(zeros, 1024, {1001, 0});
  AddMoeLayer(zeros, 4096, {3595, 0});
}

void AddAll() {
  AddMoeLayers();
  for (const int64_t rows : {131072, 32768, 2048, 512}) {
    AddGrouped(128, rows, 2048, 1536);
  }
  AddGrouped(64, 98304, 2048, 2816);
  AddGrouped(32, 8192, 7168, 4096);
  AddGrouped(8, 16384, 4096, 14336);
  AddAttention({1, 4096, 32, 32, 128, 128});
  AddAttention({1, 8192, 16, 16, 128, 128});
  AddAttention({8, 2048, 32, 8, 128, 128});
  AddAttention({8, 2048, 16, 16, 128, 128});
  AddAttention({1, 4096, 16, 4, 64, 64});
  AddAttention({1, 4096, 128, 128, 192, 128}, {1249, 0});  // MLA's prefill.
  for (const bool paged : {false, true}) {
    AddDecode(1, 4096, 32, 8, 128, paged, {14.7, 0});
    AddDecode(16, 4096, 32, 8, 128, paged, {87.6, 0});
    AddDecode(64, 4096, 32, 8, 128, paged, {263, 0});
    AddDecode(16, 8192, 32, 8, 128, paged);
    AddDecode(1, 16384, 32, 8, 128, paged);
    for (const PackedFormat format :
         {PackedFormat::kInt8, PackedFormat::kInt4}) {
      for (const bool in_bytes : {false, true}) {
        for (const int batch : {1, 16, 64}) {
          AddDecode(batch, 4096, 32, 8, 128, paged, {}, format, in_bytes);
        }
        AddDecode(16, 8192, 32, 8, 64, paged, {}, format, in_bytes);
      }
    }
    for (const bool bf16 : {false, true}) {
      AddLatentDecode(32, 4096, 128, paged, bf16, {85, 0});
      AddLatentDecode(64, 4096, 128, paged, bf16, {134, 0});
      AddLatentDecode(128, 4096, 128, paged, bf16, {261, 0});
      AddLatentDecode(128, 4096, 128, paged, bf16, {}, /*uneven=*/true);
      for (const int64_t batch : {1, 16, 64}) {
        AddLatentDecode(batch, 4096, 16, paged, bf16);
      }
      AddLatentDecode(1, 16384, 16, paged, bf16);
    }
    for (const PackedFormat format :
         {PackedFormat::kInt8, PackedFormat::kInt4}) {
      const auto add = [&](int64_t batch, int64_t keys, int64_t heads) {
        AddLatentDecode(batch, keys, heads, paged, /*bf16=*/false, {},
                        /*uneven=*/false, format);
      };
      for (const int64_t batch : {32, 64, 128}) add(batch, 4096, 128);
      for (const int64_t batch : {1, 16, 64}) add(batch, 4096, 16);
      add(1, 16384, 16);
    }
  }
}

const BenchmarkSet kSet(AddAll);

}  // namespace
}  // namespace strata::gpu
