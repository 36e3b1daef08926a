#include "cuda/testing/unpacked_kernels.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/check.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/paged_attention.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_attention.h"
#include "core/ops/fused_experts.h"
#include "core/ops/fused_latent.h"
#include "core/ops/quant_fused.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata::gpu {
namespace {

const strata::KernelRegistry& CpuKernels() {
  static const auto* const kernels = [] {
    auto* const all = new strata::KernelRegistry(AllCpuKernels());
    RegisterPagedAttentionKernels(*all);
    return all;
  }();
  return *kernels;
}

// Packed rows of `columns` to numbers, which `view` then shows.
void Unpack(int64_t columns, std::vector<float>& numbers, TensorView& view) {
  const int64_t bytes = view.shape.back();
  const int64_t rows = view.num_elements() / bytes;
  const std::optional<QuantFormat> format = FormatOfRow(bytes, columns);
  CHECK(format.has_value()) << bytes << " bytes, " << columns << " columns";
  numbers.resize(rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    UnpackRow(*format, columns, view.as<uint8_t>() + r * bytes,
              numbers.data() + r * columns);
  }
  view.dtype = DType::kF32;
  view.shape.back() = columns;
  view.data = numbers.data();
}

template <const OpDef& plain>
absl::Status RunUnpacked(const strata::KernelContext& context) {
  Graph graph;  // Of the inputs' types alone.
  std::vector<ValueId> ids;
  for (const TensorView& view : context.inputs) {
    Value value;
    value.type.dtype = view.dtype;
    for (const int64_t extent : view.shape) {
      value.type.dims.push_back(Static(extent));
    }
    ids.push_back(view.data == nullptr ? kNone
                                       : graph.AddValue(std::move(value)));
  }
  const OpView op = {graph, ids, {}, context.attrs()};
  std::vector<TensorView> inputs(context.inputs.begin(), context.inputs.end());
  const QuantFused& twin = *FindQuantFused(plain);
  std::vector<std::vector<float>> numbers(twin.weights.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    const QuantWeight& weight = twin.weights[i];
    if (!op.has(weight.input) || op.type(weight.input).dtype != DType::kU8) {
      continue;
    }
    Unpack(weight.columns(op), numbers[i], inputs[weight.input]);
  }
  return CpuKernels().Find(
      plain.name, DType::kF32)({context.node, inputs, context.outputs,
                                context.pool, context.scratch, context.mesh});
}

template <const OpDef& plain>
void Register(strata::KernelRegistry& kernels) {
  kernels.Register(*FindQuantFused(plain)->op, DType::kF32, RunUnpacked<plain>);
}

}  // namespace

void RegisterUnpackedKernels(strata::KernelRegistry& kernels) {
  Register<kRoutedExperts>(kernels);
  Register<kNormMlp>(kernels);
  Register<kNormQkv>(kernels);
  Register<kCachedAttendProject>(kernels);
  Register<kPagedAttendProject>(kernels);
  Register<kPackedAttendProject>(kernels);
  Register<kLatentQkv>(kernels);
  Register<kCachedLatentAttendProject>(kernels);
  Register<kPagedLatentAttendProject>(kernels);
  Register<kPackedLatentAttendProject>(kernels);
}

}  // namespace strata::gpu
