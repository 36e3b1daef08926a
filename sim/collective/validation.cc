#include "sim/collective/validation.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/collective.h"
#include "sim/collective/moe_dispatch.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

constexpr int kGpusPerNode = 8;  // Of the machines in these files.

// A line's fields by the names of their columns.
class Record {
 public:
  Record(const absl::flat_hash_map<std::string, int>& columns,
         std::vector<absl::string_view> fields, int line)
      : columns_(columns), fields_(std::move(fields)), line_(line) {}

  int line() const { return line_; }

  // The columns were checked.
  absl::string_view Text(absl::string_view column) const {
    return fields_[columns_.at(column)];
  }

  absl::StatusOr<double> Number(absl::string_view column, double least,
                                double most) const {
    double value = 0;
    if (absl::SimpleAtod(Text(column), &value) && value >= least &&
        value <= most) {
      return value;
    }
    return absl::InvalidArgumentError(absl::StrFormat(
        "line %d: %s is \"%s\"; want a number from %g to %g", line_, column,
        absl::CHexEscape(Text(column).substr(0, 40)), least, most));
  }

  absl::StatusOr<int64_t> Integer(absl::string_view column, int64_t least,
                                  int64_t most) const {
    int64_t value = 0;
    if (absl::SimpleAtoi(Text(column), &value) && value >= least &&
        value <= most) {
      return value;
    }
    return absl::InvalidArgumentError(absl::StrFormat(
        "line %d: %s is \"%s\"; want an integer from %d to %d", line_, column,
        absl::CHexEscape(Text(column).substr(0, 40)), least, most));
  }

 private:
  const absl::flat_hash_map<std::string, int>& columns_;
  std::vector<absl::string_view> fields_;
  int line_;
};

absl::StatusOr<std::string> NodeKindOf(const Record& record) {
  const absl::string_view device = record.Text("device");
  for (const std::string& name : NodePresetNames()) {
    if (absl::StrContains(device, absl::AsciiStrToUpper(name))) return name;
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "line %d: device is \"%s\"; want one that names a preset: %s",
      record.line(), absl::CHexEscape(device.substr(0, 40)),
      absl::StrJoin(NodePresetNames(), ", ")));
}

constexpr absl::string_view kUneven = "alltoallv:";

absl::StatusOr<CollectiveKind> KindOf(const Record& record) {
  const absl::string_view name = record.Text("op_name");
  if (name == "all_reduce") return CollectiveKind::kAllReduce;
  if (name == "all_gather") return CollectiveKind::kAllGather;
  if (name == "reduce_scatter") return CollectiveKind::kReduceScatter;
  if (name == "alltoall") return CollectiveKind::kAllToAll;
  if (name == "sendrecv" || absl::StartsWith(name, kUneven)) {
    return CollectiveKind::kAllToAllV;
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "line %d: op_name is \"%s\"; want all_reduce, all_gather, "
      "reduce_scatter, alltoall, sendrecv or alltoallv:0.53:0.47",
      record.line(), absl::CHexEscape(name.substr(0, 40))));
}

// Of every rank's bytes, the share that each rank gets: [num_gpus].
absl::StatusOr<std::vector<double>> SharesOf(const Record& record,
                                             int num_gpus) {
  absl::string_view text = record.Text("op_name");
  text.remove_prefix(kUneven.size());
  std::vector<double> shares;
  double sum = 0;
  for (const absl::string_view field : absl::StrSplit(text, ':')) {
    double share = -1;
    if (!absl::SimpleAtod(field, &share) || !(share >= 0)) share = -1;
    shares.push_back(share);
    sum += share;
  }
  constexpr double kRounding = 1e-3;
  if (static_cast<int>(shares.size()) == num_gpus &&
      *std::min_element(shares.begin(), shares.end()) >= 0 &&
      sum >= 1 - kRounding && sum <= 1 + kRounding) {
    return shares;
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "line %d: the shares are \"%s\"; want %d that add up to 1", record.line(),
      absl::CHexEscape(text.substr(0, 40)), num_gpus));
}

absl::Status SetMatrix(const Record& record, MeasuredCollective& row) {
  const int n = row.num_gpus;
  row.bytes_matrix.assign(static_cast<size_t>(n) * n, 0);
  if (record.Text("op_name") == "sendrecv") {
    for (int i = 0; i < n; ++i) {
      if (n > 1) row.bytes_matrix[i * n + (i + 1) % n] = row.bytes;
    }
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<double> shares, SharesOf(record, n));
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      row.bytes_matrix[i * n + j] = shares[j] * row.bytes;
    }
  }
  return absl::OkStatus();
}

absl::Status AddNcclRow(const Record& record,
                        std::vector<MeasuredCollective>& rows) {
  MeasuredCollective row;
  row.line = record.line();
  ASSIGN_OR_RETURN(row.node_kind, NodeKindOf(record));
  ASSIGN_OR_RETURN(row.collective.kind, KindOf(record));
  const absl::string_view dtype = record.Text("nccl_dtype");
  if (dtype != "half" && dtype != "int8") {
    return absl::InvalidArgumentError(
        absl::StrFormat("line %d: nccl_dtype is \"%s\"; want half or int8",
                        record.line(), absl::CHexEscape(dtype.substr(0, 40))));
  }
  ASSIGN_OR_RETURN(const int64_t gpus,
                   record.Integer("num_gpus", 1, kGpusPerNode));
  ASSIGN_OR_RETURN(const double elements,
                   record.Number("message_size", 1, 1e15));
  ASSIGN_OR_RETURN(const double milliseconds,
                   record.Number("latency", 1e-6, 1e9));
  const absl::string_view name = record.Text("op_name");
  row.op = absl::StrCat(name.substr(0, name.find(':')), " ", dtype);
  row.num_gpus = gpus;
  row.bytes = elements * (dtype == "half" ? 2 : 1);
  row.measured_us = milliseconds * 1e3;
  row.collective.group.count = gpus;
  row.collective.bytes = row.bytes;
  row.collective.in_switch_type = dtype != "int8";
  if (row.collective.kind == CollectiveKind::kAllToAllV) {
    RETURN_IF_ERROR(SetMatrix(record, row));
  }
  rows.push_back(std::move(row));
  return absl::OkStatus();
}

absl::Status AddDeepEpRows(const Record& record, bool low_latency,
                           std::vector<MeasuredCollective>& rows) {
  MeasuredCollective row;
  row.line = record.line();
  ASSIGN_OR_RETURN(row.node_kind, NodeKindOf(record));
  ASSIGN_OR_RETURN(const int64_t nodes, record.Integer("node_num", 1, 1024));
  MoeDispatchRequest& moe = row.moe;
  ASSIGN_OR_RETURN(moe.hidden, record.Integer("hidden_size", 1, 1 << 20));
  ASSIGN_OR_RETURN(moe.tokens_per_rank,
                   record.Integer("num_token", 1, 1 << 24));
  ASSIGN_OR_RETURN(moe.top_k, record.Integer("num_topk", 1, 1024));
  ASSIGN_OR_RETURN(moe.num_experts, record.Integer("num_experts", 1, 1 << 16));
  moe.kernel = low_latency ? MoeKernel::kLowLatency : MoeKernel::kNormal;
  row.is_moe = true;
  row.num_gpus = nodes * kGpusPerNode;
  moe.group.count = row.num_gpus;
  for (const bool combine : {false, true}) {
    const std::string name = combine ? "combine" : "dispatch";
    row.is_combine = combine;
    row.op =
        absl::StrCat("DeepEP ", low_latency ? "low latency " : "normal ", name);
    row.bytes = static_cast<double>(moe.tokens_per_rank) * moe.hidden *
                (combine ? moe.combine_bytes : moe.dispatch_bytes);
    if (!low_latency) {
      ASSIGN_OR_RETURN(moe.num_sms, record.Integer(name + "_sms", 1, 1024));
    }
    ASSIGN_OR_RETURN(
        row.measured_us,
        record.Number(name + (low_latency ? "_avg_t_us" : "_transmit_us"), 1e-3,
                      1e12));
    rows.push_back(row);
  }
  return absl::OkStatus();
}

enum class Layout { kNccl, kLowLatency, kNormal };

absl::StatusOr<Layout> LayoutOf(
    const absl::flat_hash_map<std::string, int>& columns) {
  const std::vector<std::string> moe = {"device",    "node_num", "hidden_size",
                                        "num_token", "num_topk", "num_experts"};
  const std::vector<std::pair<Layout, std::vector<std::string>>> layouts = {
      {Layout::kNccl,
       {"device", "op_name", "nccl_dtype", "num_gpus", "message_size",
        "latency"}},
      {Layout::kLowLatency, {"dispatch_avg_t_us", "combine_avg_t_us"}},
      {Layout::kNormal,
       {"dispatch_sms", "combine_sms", "dispatch_transmit_us",
        "combine_transmit_us"}},
  };
  for (const auto& [layout, names] : layouts) {
    std::vector<std::string> wanted = names;
    if (layout != Layout::kNccl) {
      wanted.insert(wanted.end(), moe.begin(), moe.end());
    }
    if (std::all_of(wanted.begin(), wanted.end(), [&](const std::string& name) {
          return columns.contains(name);
        })) {
      return layout;
    }
  }
  return absl::InvalidArgumentError(
      "line 1 has the columns of neither NCCL's measurements (op_name, "
      "nccl_dtype, num_gpus, message_size, latency) nor DeepEP's (node_num, "
      "hidden_size, num_token, ..., dispatch_avg_t_us or dispatch_sms, ...)");
}

}  // namespace

absl::StatusOr<std::vector<MeasuredCollective>> ParseMeasurements(
    absl::string_view csv) {
  absl::flat_hash_map<std::string, int> columns;
  Layout layout = Layout::kNccl;
  std::vector<MeasuredCollective> rows;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(csv, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
    if (columns.empty()) {
      for (size_t i = 0; i < fields.size(); ++i) {
        columns.try_emplace(std::string(fields[i]), i);
      }
      ASSIGN_OR_RETURN(layout, LayoutOf(columns));
      continue;
    }
    if (fields.size() != columns.size()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("line %d has %d fields; want %d", line_number,
                          fields.size(), columns.size()));
    }
    const Record record(columns, std::move(fields), line_number);
    RETURN_IF_ERROR(
        layout == Layout::kNccl
            ? AddNcclRow(record, rows)
            : AddDeepEpRows(record, layout == Layout::kLowLatency, rows));
  }
  if (columns.empty()) return absl::InvalidArgumentError("no line of columns");
  return rows;
}

absl::StatusOr<double> PredictUs(const CollectiveModel& model,
                                 const MeasuredCollective& measured) {
  if (!measured.is_moe) {
    CollectiveRequest request = measured.collective;
    request.bytes_matrix = measured.bytes_matrix;
    ASSIGN_OR_RETURN(const CollectiveCost cost, model.Cost(request));
    return ToMicroseconds(cost.time);
  }
  ASSIGN_OR_RETURN(const MoeDispatchCost cost,
                   MoeDispatch(model, measured.moe));
  return ToMicroseconds(measured.is_combine ? cost.combine.time
                                            : cost.dispatch.time);
}

absl::StatusOr<std::vector<double>> PredictAllUs(
    absl::Span<const MeasuredCollective> measured,
    absl::FunctionRef<absl::StatusOr<Cluster>(const MeasuredCollective&)>
        cluster_of) {
  struct Machine {
    explicit Machine(Cluster made) : cluster(std::move(made)), model(cluster) {}
    Cluster cluster;
    CollectiveModel model;
  };
  std::map<std::pair<std::string, int>, std::unique_ptr<Machine>> machines;
  std::vector<double> predicted_us;
  predicted_us.reserve(measured.size());
  for (const MeasuredCollective& row : measured) {
    std::unique_ptr<Machine>& machine = machines[{row.node_kind, row.num_gpus}];
    if (machine == nullptr) {
      ASSIGN_OR_RETURN(Cluster cluster, cluster_of(row));
      machine = std::make_unique<Machine>(std::move(cluster));
    }
    const absl::StatusOr<double> predicted = PredictUs(machine->model, row);
    if (!predicted.ok()) {
      return absl::Status(
          predicted.status().code(),
          absl::StrCat("line ", row.line, ": ", predicted.status().message()));
    }
    predicted_us.push_back(*predicted);
  }
  return predicted_us;
}

absl::StatusOr<std::vector<double>> PredictAllUs(
    absl::Span<const MeasuredCollective> measured) {
  return PredictAllUs(measured, [](const MeasuredCollective& row) {
    return LoadCluster(absl::StrCat(row.node_kind, "x", row.num_gpus));
  });
}

std::vector<ErrorSummary> SummarizeErrors(
    absl::Span<const MeasuredCollective> measured,
    absl::Span<const double> predicted_us,
    absl::FunctionRef<std::string(const MeasuredCollective&)> label_of) {
  std::vector<double> all;
  std::map<std::string, std::vector<double>> by_label;
  for (size_t i = 0; i < measured.size(); ++i) {
    const double error =
        std::abs(predicted_us[i] / measured[i].measured_us - 1);
    all.push_back(error);
    by_label[label_of(measured[i])].push_back(error);
  }
  std::vector<ErrorSummary> summaries;
  const auto summarize = [&](const std::string& label,
                             std::vector<double>& errors) {
    std::sort(errors.begin(), errors.end());
    const int n = errors.size();
    // Of an even number the mean of the middle two.
    const double median = (errors[(n - 1) / 2] + errors[n / 2]) / 2;
    summaries.push_back(
        {label, n, median, errors[(9 * n + 9) / 10 - 1], errors.back()});
  };
  if (!all.empty()) summarize("all", all);
  for (auto& [label, errors] : by_label) summarize(label, errors);
  return summaries;
}

std::string SizeClass(double bytes) {
  if (bytes < 65536) return "1: below 64 KiB";
  if (bytes < 4194304) return "2: 64 KiB to 4 MiB";
  if (bytes < 67108864) return "3: 4 MiB to 64 MiB";
  return "4: 64 MiB and more";
}

}  // namespace strata::sim
