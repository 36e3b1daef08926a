#include "sim/collective/fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/algorithm.h"
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
void ForEachConstant(const std::string& path,
                     const google::protobuf::Message& message,
                     const Visit& visit) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    const std::string name = absl::StrCat(path, ".", field->name());
    if (field->cpp_type() ==
        google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
      ForEachConstant(name, reflection.GetMessage(message, field), visit);
    } else if (field->cpp_type() ==
               google::protobuf::FieldDescriptor::CPPTYPE_DOUBLE) {
      visit(name, reflection.GetDouble(message, field));
    }
  }
}

const google::protobuf::FieldDescriptor& FieldOf(
    const google::protobuf::Message& message, absl::string_view name) {
  const auto* field =
      message.GetDescriptor()->FindFieldByName(std::string(name));
  CHECK(field != nullptr) << "no constant " << name;
  return *field;
}

// Rows by what times them.
enum RowKind { kRing, kPairwise, kMoe, kNumRowKinds };

RowKind KindOf(const MeasuredCollective& row) {
  if (row.is_moe) return kMoe;
  switch (row.collective.kind) {
    case CollectiveKind::kAllToAll:
    case CollectiveKind::kAllToAllV:
    case CollectiveKind::kSendRecv:
      return kPairwise;
    default:
      return kRing;
  }
}

// Whether the times of such rows may depend on the constant.
bool Matters(absl::string_view name, RowKind kind) {
  if (absl::StartsWith(name, "deep_ep.")) return kind == kMoe;
  if (kind == kMoe) return false;
  if (absl::StartsWith(name, "nccl.point_to_point.")) return kind == kPairwise;
  return kind == kRing || name == "nccl.channel_copy_gb_per_s" ||
         name == "nccl.cached_speedup";
}

// The last message on the path of `name`, which becomes the last word.
google::protobuf::Message& Walk(google::protobuf::Message& message,
                                absl::string_view& name) {
  const size_t dot = name.find('.');
  if (dot == name.npos) return message;
  const auto& field = FieldOf(message, name.substr(0, dot));
  name.remove_prefix(dot + 1);
  return Walk(*message.GetReflection()->MutableMessage(&message, &field), name);
}

}  // namespace

std::vector<NodeConstant> ConstantsOf(const NodeConfig& node) {
  std::vector<NodeConstant> constants;
  const auto read = [&](const std::string& name, double value) {
    constants.push_back({name, value});
  };
  ForEachConstant("nccl", node.nccl(), read);
  ForEachConstant("deep_ep", node.deep_ep(), read);
  return constants;
}

double ConstantOf(const NodeConfig& node, absl::string_view name) {
  for (const NodeConstant& constant : ConstantsOf(node)) {
    if (constant.name == name) return constant.value;
  }
  return 0;
}

void SetConstant(absl::string_view name, double value, NodeConfig& node) {
  google::protobuf::Message& message = Walk(node, name);
  message.GetReflection()->SetDouble(&message, &FieldOf(message, name), value);
}

absl::StatusOr<std::vector<double>> PredictAllUs(
    const NodeConfig& node, absl::Span<const MeasuredCollective> measured) {
  return PredictAllUs(measured, [&](const MeasuredCollective& row) {
    return Cluster::Create(ClusterOf(node, row.num_gpus));
  });
}

absl::StatusOr<double> MeanLogError(
    const NodeConfig& node, absl::Span<const MeasuredCollective> measured) {
  ASSIGN_OR_RETURN(const std::vector<double> predicted_us,
                   PredictAllUs(node, measured));
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
    int rounds, absl::Span<const absl::string_view> kept) {
  NodeConfig best = start;
  std::array<std::vector<MeasuredCollective>, kNumRowKinds> rows;
  for (const MeasuredCollective& row : measured) {
    rows[KindOf(row)].push_back(row);
  }
  std::array<double, kNumRowKinds> errors = {};  // Sums.
  for (int kind = 0; kind < kNumRowKinds; ++kind) {
    ASSIGN_OR_RETURN(const double mean, MeanLogError(start, rows[kind]));
    errors[kind] = mean * rows[kind].size();
  }
  // Of all rows; those that do not depend on `name` are as before.
  const auto errors_with = [&](const NodeConfig& changed,
                               absl::string_view name)
      -> absl::StatusOr<std::array<double, kNumRowKinds>> {
    std::array<double, kNumRowKinds> sums = errors;
    for (int kind = 0; kind < kNumRowKinds; ++kind) {
      if (!Matters(name, static_cast<RowKind>(kind))) continue;
      ASSIGN_OR_RETURN(const double mean, MeanLogError(changed, rows[kind]));
      sums[kind] = mean * rows[kind].size();
    }
    return sums;
  };
  const auto total = [](const std::array<double, kNumRowKinds>& sums) {
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  };
  std::vector<double> step(ConstantsOf(start).size(), kFirstStep);
  // No row depends on them, or no protocol that one takes.
  std::vector<bool> is_idle(step.size(), false);
  for (int round = 0; round < rounds; ++round) {
    const std::vector<NodeConstant> constants = ConstantsOf(best);
    for (size_t i = 0; i < constants.size(); ++i) {
      if (is_idle[i] || constants[i].name == kLlPart ||
          constants[i].name == kPacketOverhead ||
          std::find(kept.begin(), kept.end(), constants[i].name) !=
              kept.end()) {
        continue;
      }
      bool is_better = false;
      int num_same = 0;
      for (const double factor : {1 + step[i], 1 / (1 + step[i])}) {
        NodeConfig changed = best;
        SetConstant(constants[i].name, constants[i].value * factor, changed);
        // A share above 1, say, is refused: no better then.
        const auto sums = errors_with(changed, constants[i].name);
        if (sums.ok() && *sums == errors) ++num_same;
        if (!sums.ok() || total(*sums) >= total(errors)) continue;
        errors = *sums;
        best = std::move(changed);
        is_better = true;
        break;
      }
      is_idle[i] = num_same == 2;
      step[i] = is_better ? std::min(1.3 * step[i], kLargestStep)
                          : std::max(0.6 * step[i], kLeastStep);
    }
  }
  return best;
}

}  // namespace strata::sim
