// What tests of recorded and replayed routing share: tiny models on a tiny
// corpus, and a trace read whole.

#ifndef TRAINING_ROUTING_FIXTURE_H_
#define TRAINING_ROUTING_FIXTURE_H_

#include <string>
#include <vector>

#include "core/model/config.pb.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_trace.pb.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"

namespace strata {

// Two domains of words in fixed order.
Corpus TinyCorpus();

// Two layers of two tiers, 4 and 6 experts, 2 a token at most. In evaluation
// some tokens leave after each tier.
ModelConfig TinyHierarchical();

// Two layers of 8 experts, 2 a token.
ModelConfig TinyFlat();

// `model` with flat gates of 8 experts, 2 a token, and a bias that learns.
ModelConfig WithFlatGates(ModelConfig model);

// Steps of 2 micro-batches of 4 sequences of 32 tokens; validations of 10
// sequences a domain, in batches of 4, 4 and 2.
TrainConfig TinyTrain();

struct Trace {
  RoutingTraceHeader header;
  RoutingLayout layout;
  std::vector<RoutingRecord> records;
};

// The whole trace, which must be undamaged.
Trace ReadTrace(const std::string& path);

}  // namespace strata

#endif  // TRAINING_ROUTING_FIXTURE_H_
