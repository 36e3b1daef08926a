// A model and a corpus small enough to be trained in a test.

#ifndef TOOLS_SCORECARD_TINY_STUDY_H_
#define TOOLS_SCORECARD_TINY_STUDY_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "training/config.h"
#include "training/data/corpus.h"

namespace strata {

// The demo's, with its 16 + 16 experts.
inline ModelConfig TinyModel() {
  ModelConfig model = *ModelPreset("demo");
  model.set_d_model(16);
  model.set_num_layers(1);
  model.mutable_attention()->set_num_heads(1);
  model.mutable_attention()->set_num_kv_heads(1);
  model.mutable_attention()->set_head_dim(16);
  model.mutable_moe()->set_expert_width(8);
  model.mutable_moe()->mutable_hierarchical()->set_fine_width(8);
  return model;
}

inline TrainConfig TinyTraining() {
  TrainConfig train = *TrainPreset("demo");
  train.set_steps(3);
  train.set_seq_len(16);
  train.set_batch_size(2);
  train.set_validation_tokens(64);
  return train;
}

inline Corpus TinyCorpus() {
  std::string text;
  for (int i = 0; i < 2000; ++i) absl::StrAppend(&text, "one two three ");
  return *MakeCorpus({{"a", {{"a", text}}}, {"b", {{"b", text + "!"}}}});
}

}  // namespace strata

#endif  // TOOLS_SCORECARD_TINY_STUDY_H_
