// What tests of steps on a quantised model share: a tiny model that was
// trained, quantised in a few ways, and folders that are compared.

#ifndef TRAINING_QUANT_TUNING_FIXTURE_H_
#define TRAINING_QUANT_TUNING_FIXTURE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/model/config.pb.h"
#include "core/quant/input_moments.h"
#include "core/quant/quantize_model.h"
#include "training/data/corpus.h"
#include "training/quant/router_tuning.h"

namespace strata {

// A fresh path of the running test.
std::string TestFolder(const std::string& name);

// A checkpoint of `model` after TinyTrain().
std::string TrainedFolder(const ModelConfig& model, const Corpus& corpus);

// The same in a public layout, all of it in BF16; `model` must have one.
std::string PublicFolder(const ModelConfig& model, const Corpus& corpus);

// Quick steps, and validations of TinyTrain()'s length.
TuningOptions TinySteps(int64_t steps);

// 2 bits with a zero, a scale a row.
QuantizeOptions TwoBits();

std::vector<TokenBatch> TinyBatches(const ModelConfig& model,
                                    const Corpus& corpus);

// What of two folders is not the same, by name.
std::vector<std::string> DifferencesOf(const std::string& a,
                                       const std::string& b);

// Bits per byte of validation of the model in `folder`, whose config is that of
// `of`.
double BitsPerByte(const std::string& folder, const std::string& of,
                   const Corpus& corpus);

}  // namespace strata

#endif  // TRAINING_QUANT_TUNING_FIXTURE_H_
