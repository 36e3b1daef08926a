#include "tools/scorecard/redundancy.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/model/decoder.h"
#include "core/model/moe.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"
#include "tools/scorecard/cka.h"
#include "training/data/sampler.h"

namespace strata {
namespace {

std::string RowsName(const RouterValues& router) {
  return absl::StrCat(router.ExpertName(), ".rows");
}
std::string SlotName(const RouterValues& router) {
  return absl::StrCat(router.ExpertName(), ".slot_row");
}

// Two experts of a gate and what they said, up to `rows` tokens.
struct Pair {
  int64_t a = 0;
  int64_t b = 0;
  std::vector<float> a_rows;
  std::vector<float> b_rows;
};

std::vector<Pair> DrawPairs(int64_t num_experts, int64_t gate,
                            const RedundancyOptions& options) {
  std::vector<Pair> pairs;
  for (int64_t a = 0; a < num_experts; ++a) {
    for (int64_t b = a + 1; b < num_experts; ++b)
      pairs.push_back({a, b, {}, {}});
  }
  const auto kept = std::min<int64_t>(options.pairs_per_gate, pairs.size());
  Random random(options.seed, gate);
  for (int64_t i = 0; i < kept; ++i) {
    std::swap(pairs[i], pairs[i + random.UniformInt(pairs.size() - i)]);
  }
  pairs.resize(kept);
  return pairs;
}

// Adds the latest run's rows of tokens that chose both of a pair.
void Collect(const Program& program, const RouterValues& router,
             int64_t max_rows, std::vector<Pair>& pairs) {
  const TensorView expert = program.Output(router.ExpertName());
  const TensorView slot_row = program.Output(SlotName(router));
  const TensorView rows = program.Output(RowsName(router));
  const int64_t k = expert.dim(1);
  const int64_t d = rows.dim(1);
  std::vector<int64_t> row_of(router.num_experts);
  for (int64_t i = 0; i < expert.dim(0); ++i) {
    std::fill(row_of.begin(), row_of.end(), -1);
    for (int64_t j = 0; j < k; ++j) {
      const int32_t e = expert.as<int32_t>()[i * k + j];
      if (e >= 0) row_of[e] = slot_row.as<int32_t>()[i * k + j];
    }
    for (Pair& pair : pairs) {
      if (row_of[pair.a] < 0 || row_of[pair.b] < 0 ||
          static_cast<int64_t>(pair.a_rows.size()) == max_rows * d) {
        continue;
      }
      const float* const a = rows.as<float>() + row_of[pair.a] * d;
      const float* const b = rows.as<float>() + row_of[pair.b] * d;
      pair.a_rows.insert(pair.a_rows.end(), a, a + d);
      pair.b_rows.insert(pair.b_rows.end(), b, b + d);
    }
  }
}

}  // namespace

absl::StatusOr<Redundancy> MeasureRedundancy(Trainer& trainer,
                                             const Corpus& corpus,
                                             const RedundancyOptions& options) {
  const int64_t seq_len = trainer.train_config().seq_len();
  const int64_t sequences = trainer.train_config().batch_size();
  GraphBuilder b;
  DecoderOptions decoder;
  decoder.mode = DecoderOptions::Mode::kEvaluate;
  decoder.max_tokens = sequences * seq_len;
  decoder.max_sequences = sequences;
  const std::vector<RouterValues> routers =
      BuildDecoder(b, trainer.model_config(), decoder).routers;
  for (const RouterValues& router : routers) {
    b.Output(RowsName(router), router.output);
    b.Output(SlotName(router), router.slot_row);
  }
  ASSIGN_OR_RETURN(Graph graph, b.Finish());
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Program> program,
      Program::Compile(std::move(graph), trainer.backend(), trainer.state()));
  *program->Input("num_tokens").as<int32_t>() =
      static_cast<int32_t>(sequences * seq_len);
  for (int64_t i = 0; i < sequences * seq_len; ++i) {
    program->Input("position").as<int32_t>()[i] =
        static_cast<int32_t>(i % seq_len);
  }
  for (int64_t s = 0; s <= sequences; ++s) {
    program->Input("seq_start").as<int32_t>()[s] =
        static_cast<int32_t>(s * seq_len);
  }

  std::vector<std::vector<Pair>> pairs;
  for (size_t gate = 0; gate < routers.size(); ++gate) {
    pairs.push_back(DrawPairs(routers[gate].num_experts,
                              static_cast<int64_t>(gate), options));
  }
  ASSIGN_OR_RETURN(
      const ValidationWindows windows,
      ValidationWindows::Create(&corpus, seq_len,
                                options.max_batches * sequences * seq_len));
  const auto ids = program->Input("ids").span<int32_t>();
  const auto target = program->Input("target").span<int32_t>();
  int64_t window = 0;
  for (int64_t batch = 0; batch < options.max_batches; ++batch) {
    for (int64_t s = 0; s < sequences; ++s, ++window) {
      const int domain = static_cast<int>(window % windows.num_domains());
      windows.Fill(domain,
                   window / windows.num_domains() % windows.num_windows(domain),
                   ids.subspan(s * seq_len, seq_len),
                   target.subspan(s * seq_len, seq_len));
    }
    RETURN_IF_ERROR(program->Run());
    for (size_t gate = 0; gate < routers.size(); ++gate) {
      Collect(*program, routers[gate], options.rows, pairs[gate]);
    }
  }

  Redundancy result;
  for (const std::vector<Pair>& of_gate : pairs) {
    for (const Pair& pair : of_gate) {
      if (static_cast<int64_t>(pair.a_rows.size()) <
          options.rows * trainer.model_config().d_model()) {
        continue;
      }
      result.cka += LinearCka(pair.a_rows, pair.b_rows, options.rows);
      ++result.num_pairs;
    }
  }
  if (result.num_pairs > 0) result.cka /= static_cast<double>(result.num_pairs);
  return result;
}

}  // namespace strata
