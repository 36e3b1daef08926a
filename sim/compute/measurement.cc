#include "sim/compute/measurement.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/trace/gzip.h"
#include "sim/compute/decode_time.h"
#include "sim/compute/expert_rows.h"
#include "sim/compute/fitted_kernel.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/tuning_files.h"

namespace strata {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;
// So that products of three sizes are far from overflow, and loads of tokens
// and experts can be drawn.
constexpr int64_t kMostSize = int64_t{1} << 24;
constexpr int64_t kMostExperts = 1 << 14;
constexpr int kDraws = 8;
constexpr absl::string_view kPowerLaw = "power_law_";

absl::StatusOr<std::string> ReadText(const std::string& path) {
  if (!absl::EndsWith(path, ".gz")) return ReadFile(path);
  ASSIGN_OR_RETURN(GzipReader reader, GzipReader::Open(path));
  std::string text;
  while (true) {
    const absl::StatusOr<int64_t> num_bytes = reader.Read(&text);
    if (!num_bytes.ok()) {
      return absl::Status(
          num_bytes.status().code(),
          absl::StrCat(path, ": ", num_bytes.status().message()));
    }
    if (*num_bytes == 0) return text;
    if (text.size() > kMostBytes) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("%s: more than %d bytes of text", path, kMostBytes));
    }
  }
}

std::optional<Precision> PrecisionOf(absl::string_view dtype) {
  if (dtype == "bfloat16") return Precision::kBf16;
  if (dtype == "fp8") return Precision::kFp8;
  if (dtype == "fp8_block") return Precision::kFp8Block;
  if (dtype == "int4_wo") return Precision::kInt4Weight;
  return std::nullopt;
}

Leftover LeftoverOf(const MoeSoftware& software) {
  switch (software.leftover()) {
    case MoeSoftware::FEWEST:
      return Leftover::kFewest;
    case MoeSoftware::MOST:
      return Leftover::kMost;
    default:
      return Leftover::kFewestOfEachRank;
  }
}

bool IsRunOf(const LayerRun& run, const MoeLayer& shape,
             absl::string_view dtype, absl::string_view distribution) {
  return run.moe_dtype() == dtype && run.hidden_size() == shape.hidden &&
         run.inter_size() == shape.inner &&
         run.num_experts() == shape.experts &&
         run.moe_tp_size() == shape.tensor_parallel &&
         run.moe_ep_size() == shape.expert_parallel &&
         run.distribution() == distribution;
}

class Parser {
 public:
  Parser(absl::string_view name, const MeasuredOn& on) : name_(name), on_(on) {}

  absl::StatusOr<Measurements> Parse(absl::string_view text);

 private:
  enum class Kind { kMatMul, kMoe, kAttention, kLatent };

  absl::Status Error(absl::string_view problem) const {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, " line ", line_, ": ", problem));
  }

  absl::Status ReadHeader(absl::string_view header);
  absl::StatusOr<absl::string_view> Cell(absl::string_view column) const;
  absl::StatusOr<int64_t> Size(absl::string_view column, int64_t least,
                               int64_t most = kMostSize) const;
  absl::StatusOr<Precision> Dtype(absl::string_view column) const;
  absl::StatusOr<bool> Fp8Cache() const;

  absl::StatusOr<KernelShape> ReadShape(Measurement& row);
  absl::StatusOr<KernelShape> ReadMatMul() const;
  absl::StatusOr<KernelShape> ReadMoe(const Measurement& row);
  bool IsTuned(const MoeSoftware& software, const MoeLayer& shape,
               absl::string_view dtype, absl::string_view distribution);
  absl::StatusOr<KernelShape> ReadAttention(Measurement& row) const;
  absl::StatusOr<KernelShape> ReadLatent() const;

  absl::string_view name_;
  const MeasuredOn& on_;
  int64_t line_ = 0;
  Kind kind_ = Kind::kMatMul;
  std::map<std::string, size_t, std::less<>> column_;
  std::vector<absl::string_view> cell_;
  struct Loads {
    ExpertRows rows;
    double tokens = 0;
  };
  std::map<std::pair<std::string, std::array<int64_t, 5>>, Loads> loads_;
  TuningFiles tuning_files_;
  int next_machine_ = 0;
};

absl::Status Parser::ReadHeader(absl::string_view header) {
  column_.clear();
  size_t index = 0;
  for (const absl::string_view column : absl::StrSplit(header, ',')) {
    column_.emplace(std::string(column), index++);
  }
  const auto has = [&](absl::string_view column) {
    return column_.find(column) != column_.end();
  };
  if (has("gemm_dtype")) {
    kind_ = Kind::kMatMul;
  } else if (has("moe_dtype")) {
    kind_ = Kind::kMoe;
  } else if (has("mla_dtype")) {
    kind_ = Kind::kLatent;
  } else if (has("num_key_value_heads")) {
    kind_ = Kind::kAttention;
  } else {
    return Error(
        "the header has none of the columns gemm_dtype, moe_dtype, mla_dtype, "
        "num_key_value_heads that tell what was measured");
  }
  return has("latency") ? absl::OkStatus() : Error("no column latency");
}

absl::StatusOr<absl::string_view> Parser::Cell(absl::string_view column) const {
  const auto found = column_.find(column);
  if (found == column_.end()) return Error(absl::StrCat("no column ", column));
  return cell_[found->second];
}

absl::StatusOr<int64_t> Parser::Size(absl::string_view column, int64_t least,
                                     int64_t most) const {
  ASSIGN_OR_RETURN(const absl::string_view cell, Cell(column));
  int64_t size = 0;
  if (!absl::SimpleAtoi(cell, &size) || size < least || size > most) {
    return Error(
        absl::StrFormat("%s is \"%s\"; want a whole number from %d to "
                        "%d",
                        column, cell, least, most));
  }
  return size;
}

absl::StatusOr<Precision> Parser::Dtype(absl::string_view column) const {
  ASSIGN_OR_RETURN(const absl::string_view cell, Cell(column));
  const std::optional<Precision> precision = PrecisionOf(cell);
  if (!precision.has_value()) {
    return Error(absl::StrCat(column, " is \"", cell,
                              "\"; want bfloat16, fp8, fp8_block or int4_wo"));
  }
  return *precision;
}

absl::StatusOr<bool> Parser::Fp8Cache() const {
  ASSIGN_OR_RETURN(const Precision precision, Dtype("kv_cache_dtype"));
  return precision == Precision::kFp8;
}

absl::StatusOr<KernelShape> Parser::ReadMatMul() const {
  MatMul shape;
  ASSIGN_OR_RETURN(shape.m, Size("m", 0));
  ASSIGN_OR_RETURN(shape.n, Size("n", 1));
  ASSIGN_OR_RETURN(shape.k, Size("k", 1));
  ASSIGN_OR_RETURN(shape.precision, Dtype("gemm_dtype"));
  shape.reuse = Reuse::kRepeated;
  return shape;
}

bool Parser::IsTuned(const MoeSoftware& software, const MoeLayer& shape,
                     absl::string_view dtype, absl::string_view distribution) {
  if (next_machine_ < software.next_machine_size() &&
      IsRunOf(software.next_machine(next_machine_), shape, dtype,
              distribution)) {
    tuning_files_.NextMachine();
    ++next_machine_;
  }
  // Kernels of other precisions are not tuned on the devices that share files.
  return !software.shares_tuning_files() ||
         shape.precision != Precision::kBf16 ||
         tuning_files_.IsTuned(shape, distribution);
}

absl::StatusOr<KernelShape> Parser::ReadMoe(const Measurement& row) {
  MoeLayer shape;
  ASSIGN_OR_RETURN(shape.tokens, Size("num_tokens", 0));
  ASSIGN_OR_RETURN(shape.hidden, Size("hidden_size", 1));
  ASSIGN_OR_RETURN(shape.inner, Size("inter_size", 1));
  ASSIGN_OR_RETURN(shape.experts, Size("num_experts", 1, kMostExperts));
  ASSIGN_OR_RETURN(shape.top_k, Size("topk", 1, shape.experts));
  ASSIGN_OR_RETURN(shape.tensor_parallel, Size("moe_tp_size", 1, shape.inner));
  ASSIGN_OR_RETURN(shape.expert_parallel,
                   Size("moe_ep_size", 1, shape.experts));
  ASSIGN_OR_RETURN(shape.precision, Dtype("moe_dtype"));
  if (shape.experts % shape.expert_parallel != 0) {
    return Error(
        absl::StrFormat("moe_ep_size is %d, which does not divide the "
                        "%d experts",
                        shape.expert_parallel, shape.experts));
  }
  shape.reuse = Reuse::kRepeated;
  shape.kernel_source = row.kernel_source;
  const MoeSoftware software =
      SoftwareOf(on_.facts, row.kernel_source, on_.name);
  shape.gated = !software.ungated();
  for (const int64_t inner : software.ungated_inner()) {
    if (inner == shape.inner) shape.gated = false;
  }
  if (shape.tokens == 0) return shape;

  ASSIGN_OR_RETURN(const absl::string_view distribution, Cell("distribution"));
  double alpha = 0;
  absl::string_view exponent = distribution;
  if (absl::ConsumePrefix(&exponent, kPowerLaw)) {
    if (!absl::SimpleAtod(exponent, &alpha) || !(alpha > 0) || alpha > 100) {
      return Error(absl::StrCat("distribution is \"", distribution,
                                "\"; want an exponent from 0 to 100"));
    }
  } else if (distribution != "balanced") {
    return Error(absl::StrCat("distribution is \"", distribution,
                              "\"; want balanced or power_law_<exponent>"));
  }
  shape.untuned = !IsTuned(software, shape, row.precision, distribution);
  const LoadShape load_shape = {shape.tokens, shape.experts, shape.top_k,
                                shape.expert_parallel};
  const Leftover leftover = LeftoverOf(software);
  auto [found, is_new] = loads_.try_emplace(
      {std::string(distribution),
       {shape.tokens, shape.experts, shape.top_k, shape.expert_parallel,
        static_cast<int64_t>(leftover)}});
  Loads& loads = found->second;
  if (is_new) {
    const int draws = alpha > 0 ? kDraws : 1;
    for (int draw = 0; draw < draws; ++draw) {
      const LocalLoads local =
          alpha > 0 ? PowerLawLoads(load_shape, alpha, draw, leftover)
                    : BalancedLoads(load_shape);
      const ExpertRows rows = RowsOf(local.rows);
      loads.tokens += static_cast<double>(local.tokens) / draws;
      loads.rows.rows += rows.rows / draws;
      loads.rows.touched += rows.touched / draws;
      for (int i = 0; i < ExpertRows::kNumHeights; ++i) {
        loads.rows.blocks[i] += rows.blocks[i] / draws;
      }
    }
  }
  shape.rows = loads.rows;
  for (const LayerShape& layer : software.remote_on_first()) {
    if (shape.expert_parallel == 1 || layer.inner() != shape.inner ||
        (layer.hidden() != 0 && layer.hidden() != shape.hidden)) {
      continue;
    }
    // Only tokens of the rank were passed, with all of their choices.
    const double all = loads.tokens * shape.top_k;
    for (int i = 0; i < ExpertRows::kNumHeights; ++i) {
      shape.rows.blocks[i] += (all - shape.rows.rows) / ExpertRows::kHeight[i];
    }
    shape.rows.rows = all;
    shape.tokens = std::llround(loads.tokens);
  }
  return shape;
}

absl::StatusOr<KernelShape> Parser::ReadAttention(Measurement& row) const {
  AttentionPrefill prefill;
  ASSIGN_OR_RETURN(prefill.batch, Size("batch_size", 1));
  ASSIGN_OR_RETURN(prefill.sequence, Size("isl", 1));
  ASSIGN_OR_RETURN(prefill.heads, Size("num_heads", 1));
  ASSIGN_OR_RETURN(prefill.kv_heads,
                   Size("num_key_value_heads", 1, prefill.heads));
  ASSIGN_OR_RETURN(prefill.head_dim, Size("head_dim", 1));
  ASSIGN_OR_RETURN(prefill.window, Size("window_size", 0));
  ASSIGN_OR_RETURN(prefill.fp8_kv_cache, Fp8Cache());
  ASSIGN_OR_RETURN(const int64_t step, Size("step", 0));
  if (step == 0) return prefill;
  AttentionDecode decode;
  decode.batch = prefill.batch;
  decode.context = prefill.sequence + step;
  decode.heads = prefill.heads;
  decode.kv_heads = prefill.kv_heads;
  decode.head_dim = prefill.head_dim;
  decode.window = prefill.window;
  decode.fp8_kv_cache = prefill.fp8_kv_cache;
  decode.reuse = Reuse::kRepeated;
  row.variant = NameOf(KernelOf(on_.device, decode));
  return decode;
}

absl::StatusOr<KernelShape> Parser::ReadLatent() const {
  LatentPrefill prefill;
  ASSIGN_OR_RETURN(prefill.batch, Size("batch_size", 1));
  ASSIGN_OR_RETURN(prefill.sequence, Size("isl", 1));
  ASSIGN_OR_RETURN(prefill.heads, Size("num_heads", 1));
  ASSIGN_OR_RETURN(prefill.fp8_kv_cache, Fp8Cache());
  ASSIGN_OR_RETURN(const int64_t step, Size("step", 0));
  if (step == 0) return prefill;
  LatentDecode decode;
  decode.batch = prefill.batch;
  decode.context = prefill.sequence + step;
  decode.heads = prefill.heads;
  decode.fp8_kv_cache = prefill.fp8_kv_cache;
  decode.reuse = Reuse::kRepeated;
  return decode;
}

absl::StatusOr<KernelShape> Parser::ReadShape(Measurement& row) {
  switch (kind_) {
    case Kind::kMatMul:
      return ReadMatMul();
    case Kind::kMoe:
      return ReadMoe(row);
    case Kind::kAttention:
      return ReadAttention(row);
    case Kind::kLatent:
      return ReadLatent();
  }
  return Error("unknown kind");
}

absl::StatusOr<Measurements> Parser::Parse(absl::string_view text) {
  Measurements result;
  bool has_header = false;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_;
    absl::ConsumeSuffix(&line, "\r");
    if (line.empty()) continue;
    if (!has_header) {
      RETURN_IF_ERROR(ReadHeader(line));
      has_header = true;
      continue;
    }
    cell_ = absl::StrSplit(line, ',');
    if (cell_.size() < column_.size()) {
      return Error(
          absl::StrFormat("%d cells; want %d", cell_.size(), column_.size()));
    }
    Measurement row;
    if (column_.count("kernel_source") > 0) {
      row.kernel_source = std::string(cell_[column_["kernel_source"]]);
    }
    for (const char* dtype : {"kv_cache_dtype", "gemm_dtype", "moe_dtype"}) {
      if (column_.count(dtype) > 0) {
        row.precision = std::string(cell_[column_[dtype]]);
      }
    }
    ASSIGN_OR_RETURN(row.shape, ReadShape(row));
    ASSIGN_OR_RETURN(const absl::string_view latency, Cell("latency"));
    double ms = 0;
    if (!absl::SimpleAtod(latency, &ms) || !(ms > 0) || !(ms < 1e9)) {
      return Error(absl::StrCat("latency is \"", latency,
                                "\"; want milliseconds above 0"));
    }
    row.us = ms * 1e3;
    row.hash = HashName(line);
    if (SizesOf(row.shape)[0].second <= 0) {
      ++result.num_empty;
    } else {
      result.rows.push_back(std::move(row));
    }
  }
  if (!has_header) {
    return absl::InvalidArgumentError(absl::StrCat(name_, " is empty"));
  }
  return result;
}

}  // namespace

MoeSoftware SoftwareOf(const SoftwareFacts& facts, absl::string_view source,
                       absl::string_view device) {
  for (const SourceFacts& known : facts.source()) {
    if (known.kernel_source() == source &&
        (known.device().empty() || known.device() == device)) {
      return known.moe();
    }
  }
  return MoeSoftware();
}

absl::StatusOr<Measurements> ParseMeasurements(absl::string_view text,
                                               absl::string_view name,
                                               const MeasuredOn& on) {
  return Parser(name, on).Parse(text);
}

absl::StatusOr<Measurements> ReadMeasurements(const std::string& path,
                                              const MeasuredOn& on) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  return ParseMeasurements(text, path, on);
}

}  // namespace strata
