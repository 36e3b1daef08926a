// The expert meter: counts how a model's experts were used over many batches.

#ifndef TRAINING_EXPERT_METER_H_
#define TRAINING_EXPERT_METER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/model/config.pb.h"
#include "core/model/moe.h"
#include "core/parallel/communicator.h"
#include "core/runtime/program.h"
#include "training/metrics.h"

namespace strata {

// Reads the router outputs of a program after each run. Allocates nothing after
// it was made.
class ExpertMeter {
 public:
  ExpertMeter(const ModelConfig& config, std::vector<RouterValues> routers);

  void Reset();

  // Adds the latest run of `program`, whose batch had `num_tokens` tokens.
  void Add(const Program& program, int64_t num_tokens);

  // Makes the counts those of all `ranks`, each of which calls it.
  absl::Status SumOverRanks(Communicator& ranks);

  // Over all runs since Reset().
  ExpertUse Use() const;

  // Rows that each expert of router `i` got.
  const std::vector<int64_t>& load(int i) const { return load_[i]; }
  // Tokens that reached router `i`.
  int64_t reached(int i) const { return reached_[i]; }
  const std::vector<RouterValues>& routers() const { return routers_; }

 private:
  // Of the shared experts, a token; of the projections of `combine: CONCAT`,
  // in all.
  double SharedFlops() const;
  double ProjectionFlops() const;

  ModelConfig config_;
  std::vector<RouterValues> routers_;
  // Names of the outputs, made once.
  std::vector<std::string> offset_name_;
  std::vector<std::string> tokens_name_;
  std::vector<std::vector<int64_t>> load_;  // [routers][experts]
  std::vector<int64_t> reached_;            // [routers], tokens
  int64_t num_tokens_ = 0;
};

}  // namespace strata

#endif  // TRAINING_EXPERT_METER_H_
