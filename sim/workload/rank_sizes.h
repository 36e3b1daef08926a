// Extents of the graph's values as one rank of a layout has them: tokens and
// rows counted, what tensor parallelism cuts divided.

#ifndef SIM_WORKLOAD_RANK_SIZES_H_
#define SIM_WORKLOAD_RANK_SIZES_H_

#include <utility>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "sim/workload/layout.h"
#include "sim/workload/model_graph.h"

namespace strata::sim {

// The model and the layout must outlive it.
class RankSizes {
 public:
  // `gate_rows` has the rows of each gate's experts on the rank.
  RankSizes(const ModelGraph& model, const Layout& layout,
            std::vector<double> gate_rows)
      : model_(model), layout_(layout), gate_rows_(std::move(gate_rows)) {}

  double Count(ValueId count) const {
    const int gate = model_.GateOfCount(count);
    return gate < 0 ? static_cast<double>(layout_.TokensPerRank())
                    : gate_rows_[gate];
  }

  Binding Counts() const {
    return [this](ValueId count, int64_t) { return Count(count); };
  }

  // Of dimension `dim`; `experts`: cut as experts are.
  double Extent(ValueId value, int dim, bool experts) const {
    const Dim& d = model_.graph().value(value).type.dims[dim];
    const double extent =
        d.ragged() ? Count(d.count) : static_cast<double>(d.bound);
    if (!model_.IsCut(value, dim)) return extent;
    return extent / static_cast<double>(experts ? layout_.expert_tensor
                                                : layout_.tensor);
  }

 private:
  const ModelGraph& model_;
  const Layout& layout_;
  const std::vector<double> gate_rows_;
};

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_RANK_SIZES_H_
