#include "sim/collective/fit.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/validation.h"

namespace strata::sim {
namespace {

constexpr double kLargestLogError = 0.5;
constexpr double kFirstStep = 0.2;  // Of a constant, as a share of it.
constexpr double kLargestStep = 0.5;
constexpr double kLeastStep = 0.002;

// A fabric between the nodes, as every preset has it; its own constants are not
// fitted.
ClusterConfig ClusterOf(const NodeConfig& node, int num_gpus) {
  ClusterConfig config;
  *config.add_kind() = node;
  NodeGroup* group = config.add_nodes();
  group->set_kind(node.name());
  group->set_count(std::max(1, num_gpus / node.num_gpus()));
  group->set_gpus(std::min(num_gpus, node.num_gpus()));
  config.mutable_fabric()->set_nodes_per_leaf(32);
  config.mutable_fabric()->set_oversubscription(1);
  return config;
}

// Calls `visit` for every double of the message and those in it that is not 0.
template <typename Visit>
void ForEachConstant(google::protobuf::Message& message, const Visit& visit) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->cpp_type() ==
        google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
      ForEachConstant(*reflection.MutableMessage(&message, field), visit);
    } else if (field->cpp_type() ==
               google::protobuf::FieldDescriptor::CPPTYPE_DOUBLE) {
      visit(message, *field);
    }
  }
}

std::vector<double> ConstantsOf(NodeConfig node) {
  std::vector<double> constants;
  const auto read = [&](const google::protobuf::Message& message,
                        const google::protobuf::FieldDescriptor& field) {
    constants.push_back(message.GetReflection()->GetDouble(message, &field));
  };
  ForEachConstant(*node.mutable_nccl(), read);
  if (node.has_deep_ep()) ForEachConstant(*node.mutable_deep_ep(), read);
  return constants;
}

NodeConfig WithConstants(NodeConfig node,
                         const std::vector<double>& constants) {
  size_t next = 0;
  const auto write = [&](google::protobuf::Message& message,
                         const google::protobuf::FieldDescriptor& field) {
    message.GetReflection()->SetDouble(&message, &field, constants[next++]);
  };
  ForEachConstant(*node.mutable_nccl(), write);
  if (node.has_deep_ep()) ForEachConstant(*node.mutable_deep_ep(), write);
  return node;
}

}  // namespace

absl::StatusOr<double> MeanLogError(
    const NodeConfig& node, absl::Span<const MeasuredCollective> measured) {
  ASSIGN_OR_RETURN(const std::vector<double> predicted_us,
                   PredictAllUs(measured, [&](const MeasuredCollective& row) {
                     return Cluster::Create(ClusterOf(node, row.num_gpus));
                   }));
  double sum = 0;
  for (size_t i = 0; i < measured.size(); ++i) {
    sum +=
        std::min(kLargestLogError,
                 std::abs(std::log(predicted_us[i] / measured[i].measured_us)));
  }
  return measured.empty() ? 0 : sum / measured.size();
}

absl::StatusOr<NodeConfig> FitConstants(
    const NodeConfig& start, absl::Span<const MeasuredCollective> measured,
    int rounds) {
  std::vector<double> constants = ConstantsOf(start);
  ASSIGN_OR_RETURN(double error, MeanLogError(start, measured));
  std::vector<double> step(constants.size(), kFirstStep);
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < constants.size(); ++i) {
      bool is_better = false;
      for (const double factor : {1 + step[i], 1 / (1 + step[i])}) {
        std::vector<double> changed = constants;
        changed[i] *= factor;
        // A share above 1, say, is refused: no better then.
        const absl::StatusOr<double> changed_error =
            MeanLogError(WithConstants(start, changed), measured);
        if (!changed_error.ok() || *changed_error >= error) continue;
        error = *changed_error;
        constants = std::move(changed);
        is_better = true;
        break;
      }
      step[i] = is_better ? std::min(1.3 * step[i], kLargestStep)
                          : std::max(0.6 * step[i], kLeastStep);
    }
  }
  return WithConstants(start, constants);
}

}  // namespace strata::sim
