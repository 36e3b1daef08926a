#include "core/quant/round_parameters.h"

#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/passes/quantize_weights.h"
#include "core/quant/format.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/packed_rows.h"
#include "core/quant/quantized_matrix.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

absl::Status RoundTo(const std::string& name, const TensorView& w,
                     const QuantFormat& format, uint8_t* out) {
  const int64_t columns = w.shape.back();
  const int64_t rows = w.num_elements() / columns;
  const float* const x = w.as<float>();
  RETURN_IF_ERROR(CheckWeights(name, x, rows, columns, format));
  const QuantizedMatrix m = RoundToNearest(x, rows, columns, format);
  const int64_t groups = m.num_groups();
  const int64_t bytes = PackedRow(format, columns).bytes;
  for (int64_t i = 0; i < rows; ++i) {
    PackRow(format, columns, &m.code[i * columns], &m.scale[i * groups],
            &m.zero[i * groups], out + i * bytes);
  }
  return absl::OkStatus();
}

}  // namespace

std::set<std::string> RoundableWeights(const Graph& graph) {
  std::set<std::string> names = QuantizableWeights(graph);
  for (auto it = names.begin(); it != names.end();) {
    it = IsOfGate(*it) ? names.erase(it) : std::next(it);
  }
  return names;
}

absl::Status RoundParameters(const Graph& graph,
                             const std::set<std::string>& names,
                             const QuantFormat& format, StateStore& from,
                             StateStore& to) {
  std::map<std::string, QuantFormat> formats;
  for (const std::string& name : names) {
    const Value& value = graph.value(graph.FindSource(name));
    const int64_t columns = value.type.dims.back().bound;
    formats[name] = format;
    if (format.group > 0 && columns % format.group != 0) {
      formats[name].group = 0;
    }
  }
  ASSIGN_OR_RETURN(const Graph packed, QuantizeWeights(graph, formats));
  RETURN_IF_ERROR(to.Declare(packed));
  for (const std::string& name : to.names()) {
    const TensorView& source = from.Get(name);
    const TensorView& target = to.Get(name);
    if (source.dtype != DType::kF32) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, " is ", Name(source.dtype), "; want F32, to be rounded"));
    }
    if (formats.count(name) > 0) {
      RETURN_IF_ERROR(
          RoundTo(name, source, formats.at(name), target.as<uint8_t>()));
    } else {
      std::memcpy(target.data, source.data, target.num_bytes());
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
