#include "training/routing_fixture.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "core/testing/status_matchers.h"
#include "core/trace/routing_reader.h"
#include "gtest/gtest.h"
#include "training/config.h"
#include "training/data/corpus.h"

namespace strata {

Corpus TinyCorpus() {
  std::string code;
  std::string prose;
  for (int i = 0; i < 800; ++i) {
    absl::StrAppend(&code, "for (int i = 0; i < n; ++i) sum += x[i];\n");
    absl::StrAppend(&prose, "one two three four five six seven. ");
  }
  auto corpus =
      MakeCorpus({{"code", {{"a", code}}}, {"prose", {{"b", prose}}}});
  EXPECT_THAT(corpus, IsOk());
  return *std::move(corpus);
}

ModelConfig TinyHierarchical() {
  ModelConfig config = *ModelPreset("demo");
  config.set_d_model(32);
  config.set_num_layers(2);
  config.mutable_attention()->set_num_heads(2);
  config.mutable_attention()->set_num_kv_heads(1);
  config.mutable_attention()->set_head_dim(16);
  config.mutable_moe()->set_expert_width(16);
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.clear_tier_experts();
  for (const int experts : {4, 6}) gate.add_tier_experts(experts);
  gate.set_k_max(2);
  gate.set_exit_threshold(0.5);
  gate.set_energy_groups(8);
  gate.set_fine_width(8);
  return config;
}

ModelConfig TinyFlat() {
  ModelConfig config = TinyHierarchical();
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_num_experts(8);
  flat.set_k(2);
  flat.set_normalize(true);
  return config;
}

ModelConfig WithFlatGates(ModelConfig model) {
  FlatRouterConfig& gate = *model.mutable_moe()->mutable_flat();
  gate.set_num_experts(8);
  gate.set_k(2);
  gate.set_score(FlatRouterConfig::SIGMOID);
  gate.set_normalize(true);
  gate.set_correction_bias(true);
  gate.set_bias_update_rate(0.01);
  return model;
}

TrainConfig TinyTrain() {
  TrainConfig train = *TrainPreset("demo");
  train.set_steps(10);
  train.set_seq_len(32);
  train.set_batch_size(4);
  train.set_accumulation(2);
  train.set_validation_tokens(320);
  return train;
}

Trace ReadTrace(const std::string& path) {
  Trace trace;
  auto reader = RoutingReader::Open(path);
  EXPECT_THAT(reader, IsOk());
  if (!reader.ok()) return trace;
  trace.header = reader->header();
  trace.layout = reader->layout();
  RoutingRecord record;
  while (true) {
    const auto more = reader->Next(record);
    EXPECT_THAT(more, IsOk());
    if (!more.ok() || !*more) return trace;
    trace.records.push_back(record);
  }
}

}  // namespace strata
