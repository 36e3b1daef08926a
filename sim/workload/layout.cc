#include "sim/workload/layout.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/model/count.h"

namespace strata::sim {
namespace {

constexpr int64_t kMaxDegree = int64_t{1} << 20;
constexpr int64_t kMaxBatch = int64_t{1} << 32;

struct NumberWord {
  absl::string_view name;
  int64_t Layout::*field;
  int64_t min;
  int64_t max;
};
constexpr NumberWord kNumbers[] = {
    {"tp", &Layout::tensor, 1, kMaxDegree},
    {"cp", &Layout::context, 1, kMaxDegree},
    {"pp", &Layout::pipeline, 1, kMaxDegree},
    {"dp", &Layout::data, 1, kMaxDegree},
    {"ep", &Layout::expert, 1, kMaxDegree},
    {"etp", &Layout::expert_tensor, 1, kMaxDegree},
    {"vp", &Layout::chunks, 1, kMaxDegree},
    {"mbs", &Layout::micro_batch, 1, kMaxDegree},
    {"gbs", &Layout::global_batch, 1, kMaxBatch},
    {"seq", &Layout::sequence, 1, int64_t{1} << 24},
    {"zero", &Layout::zero, 0, 3},
    {"mtp", &Layout::mtp_layers, 0, 64},
};

struct FlagWord {
  absl::string_view name;
  bool Layout::*field;
};
constexpr FlagWord kFlags[] = {
    {"sp", &Layout::sequence_parallel},  {"fp8", &Layout::fp8},
    {"fp8d", &Layout::fp8_dispatch},     {"act8", &Layout::fp8_activations},
    {"deepep", &Layout::deep_ep},        {"tpo", &Layout::overlap_tensor},
    {"epo", &Layout::overlap_expert},    {"ptb", &Layout::parallel_block},
    {"ppb", &Layout::blocking_hops},     {"dps", &Layout::sequential_data},
    {"grad16", &Layout::bf16_gradients}, {"mom16", &Layout::bf16_moments},
    {"w16", &Layout::bf16_weights},      {"loss32", &Layout::unfused_loss},
    {"ebias", &Layout::expert_bias},
};

constexpr Recompute kRecomputes[] = {Recompute::kNone, Recompute::kSelective,
                                     Recompute::kMoe, Recompute::kFull,
                                     Recompute::kTorch};

absl::Status UnknownWord(absl::string_view word) {
  std::vector<std::string> known;
  for (const NumberWord& number : kNumbers) {
    known.push_back(absl::StrCat(number.name, "N"));
  }
  for (const FlagWord& flag : kFlags) known.push_back(std::string(flag.name));
  return absl::InvalidArgumentError(
      absl::StrCat("layout: no word \"", word.substr(0, 40), "\"; there are ",
                   absl::StrJoin(known, ", "),
                   ", bf16, recompute=none|selective|moe|full|torch"));
}

absl::Status ParseRecompute(absl::string_view value, Layout& layout) {
  for (const Recompute recompute : kRecomputes) {
    if (value == Name(recompute)) {
      layout.recompute = recompute;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("layout: recompute=", value.substr(0, 40),
                   "; want none, selective, moe, full or torch"));
}

// Reads one word; sets `name` to what it is about.
absl::Status ParseWord(absl::string_view word, Layout& layout,
                       std::string& name) {
  constexpr absl::string_view kRecompute = "recompute=";
  if (word.substr(0, kRecompute.size()) == kRecompute) {
    name = "recompute";
    return ParseRecompute(word.substr(kRecompute.size()), layout);
  }
  if (word == "bf16" || word == "fp8") {
    name = "precision";
    layout.fp8 = word == "fp8";
    return absl::OkStatus();
  }
  for (const FlagWord& flag : kFlags) {
    if (word != flag.name) continue;
    name = std::string(word);
    layout.*flag.field = true;
    return absl::OkStatus();
  }
  const size_t digits = word.find_first_of("-0123456789");
  name = std::string(word.substr(0, digits));
  for (const NumberWord& number : kNumbers) {
    if (number.name != name) continue;
    int64_t value = 0;
    if (digits == absl::string_view::npos ||
        !absl::SimpleAtoi(word.substr(digits), &value) || value < number.min ||
        value > number.max) {
      return absl::InvalidArgumentError(absl::StrCat(
          "layout: \"", word.substr(0, 40), "\"; want ", number.name,
          number.min, " to ", number.name, number.max));
    }
    layout.*number.field = value;
    return absl::OkStatus();
  }
  return UnknownWord(word);
}

absl::Status WantDivides(absl::string_view what, int64_t value,
                         absl::string_view by, int64_t divisor) {
  if (divisor > 0 && value % divisor == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("layout: ", what, ", ", value,
                                                 ", does not divide by ", by,
                                                 ", ", divisor));
}

absl::Status CheckModel(const Layout& layout, const ModelConfig& model,
                        PipelineKind schedule) {
  const int64_t tp = layout.tensor;
  const AttentionConfig& attention = model.attention();
  RETURN_IF_ERROR(
      WantDivides("attention.num_heads", attention.num_heads(), "tp", tp));
  if (!attention.has_latent()) {
    const int64_t kv = attention.num_kv_heads();
    if (kv % tp != 0 && tp % kv != 0) {
      return WantDivides("attention.num_kv_heads", kv, "tp", tp);
    }
  }
  if (model.num_dense_layers() > 0) {
    RETURN_IF_ERROR(WantDivides("dense_width", model.dense_width(), "tp", tp));
  }
  if (model.num_dense_layers() < model.num_layers()) {
    const MoeConfig& moe = model.moe();
    if (moe.has_flat()) {
      RETURN_IF_ERROR(WantDivides("moe.flat.num_experts",
                                  moe.flat().num_experts(), "ep",
                                  layout.expert));
    } else {
      for (const int64_t experts : moe.hierarchical().tier_experts()) {
        RETURN_IF_ERROR(
            WantDivides("experts of a tier", experts, "ep", layout.expert));
      }
    }
    RETURN_IF_ERROR(WantDivides("moe.expert_width", moe.expert_width(), "etp",
                                layout.expert_tensor));
    RETURN_IF_ERROR(
        WantDivides("moe.shared_width", moe.shared_width(), "tp", tp));
  } else if (layout.ExpertGroup() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("layout: ep", layout.expert, " etp", layout.expert_tensor,
                     ", but model ", model.name(), " has no experts"));
  }
  const int64_t stages = layout.pipeline * layout.Chunks(schedule);
  const int64_t distinct =
      schedule == PipelineKind::kDualPipe ? layout.pipeline : stages;
  if (distinct > model.num_layers() + 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("layout: ", distinct, " stages for ", model.num_layers(),
                     " layers; want at most two more than layers"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view Name(Recompute recompute) {
  switch (recompute) {
    case Recompute::kNone:
      return "none";
    case Recompute::kSelective:
      return "selective";
    case Recompute::kMoe:
      return "moe";
    case Recompute::kFull:
      return "full";
    case Recompute::kTorch:
      return "torch";
  }
  return "";
}

int64_t Layout::Chunks(PipelineKind kind) const {
  return kind == PipelineKind::kDualPipe || kind == PipelineKind::kDualPipeV
             ? 2
             : chunks;
}

absl::StatusOr<Layout> ParseLayout(absl::string_view text) {
  Layout layout;
  std::set<std::string> seen;
  for (absl::string_view word :
       absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    word = absl::StripAsciiWhitespace(word);
    std::string name;
    RETURN_IF_ERROR(ParseWord(word, layout, name));
    if (!seen.insert(name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("layout: ", name, " is given twice"));
    }
  }
  return layout;
}

std::string ToString(const Layout& layout) {
  const Layout initial;
  std::vector<std::string> words;
  for (const NumberWord& number : kNumbers) {
    const int64_t value = layout.*number.field;
    if (value != initial.*number.field) {
      words.push_back(absl::StrCat(number.name, value));
    }
  }
  for (const FlagWord& flag : kFlags) {
    if (layout.*flag.field) words.push_back(std::string(flag.name));
  }
  if (layout.recompute != initial.recompute) {
    words.push_back(absl::StrCat("recompute=", Name(layout.recompute)));
  }
  return absl::StrJoin(words, ",");
}

absl::StatusOr<Layout> LayoutFor(Layout layout, const ModelConfig& model,
                                 PipelineKind schedule, int64_t num_ranks) {
  const int64_t without_data = layout.tensor * layout.context * layout.pipeline;
  if (layout.data == 0) {
    RETURN_IF_ERROR(WantDivides("the cluster's number of GPUs", num_ranks,
                                "tp cp pp", without_data));
    layout.data = num_ranks / without_data;
  }
  if (layout.Ranks() != num_ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("layout: tp", layout.tensor, " cp", layout.context, " pp",
                     layout.pipeline, " dp", layout.data, " are ",
                     layout.Ranks(), " GPUs; the cluster has ", num_ranks));
  }
  RETURN_IF_ERROR(WantDivides("tp cp dp", layout.RanksPerStage(), "ep etp",
                              layout.ExpertGroup()));
  const int64_t replicas = layout.data * layout.micro_batch;
  if (layout.global_batch == 0) layout.global_batch = replicas;
  RETURN_IF_ERROR(WantDivides("gbs", layout.global_batch, "dp mbs", replicas));
  RETURN_IF_ERROR(WantDivides("seq", layout.sequence, "cp", layout.context));
  if (layout.sequence_parallel) {
    RETURN_IF_ERROR(WantDivides("tokens of a micro-batch",
                                layout.TokensPerRank(), "tp", layout.tensor));
  }
  RETURN_IF_ERROR(CheckModel(layout, model, schedule));
  PipelineShape shape;
  shape.kind = schedule;
  shape.num_devices = static_cast<int>(layout.pipeline);
  shape.num_micro_batches =
      static_cast<int>(std::min<int64_t>(layout.MicroBatches(), 1 << 30));
  shape.num_chunks = static_cast<int>(layout.Chunks(schedule));
  RETURN_IF_ERROR(CheckPipelineShape(shape));
  return layout;
}

std::vector<int64_t> LayersOfStages(int64_t num_layers, int64_t num_stages) {
  const int64_t most = (num_layers + num_stages - 1) / num_stages;
  std::vector<int64_t> layers(num_stages, most);
  int64_t missing = most * num_stages - num_layers;
  // From the ends inwards.
  for (int64_t i = 0; missing > 0; ++i) {
    const int64_t stage = i % 2 == 0 ? num_stages - 1 - i / 2 : i / 2;
    layers[stage] -= 1;
    --missing;
  }
  return layers;
}

}  // namespace strata::sim
