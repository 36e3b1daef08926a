// Model files of llama2.c (Karpathy's), version 0.
//
//   7 x int32   dim, hidden_dim, layers, heads, kv_heads, vocab, seq_len;
//               a negative vocab: the output has a matrix of its own
//   float32     token_embedding [vocab, dim], then stacks over layers:
//               attention norm, wq, wk, wv, wo, ffn norm, w1 (gate), w2 (down),
//               w3 (up); the final norm; two unused rotary tables; the output
//
// Rotary pairs are interleaved there; they are read as Llama's halves.

#ifndef CORE_CHECKPOINT_LLAMA2C_H_
#define CORE_CHECKPOINT_LLAMA2C_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/model_source.h"

namespace strata {

// Returns INVALID_ARGUMENT, with the numbers, if the header describes no model
// or the file has not the size that it says.
absl::StatusOr<ModelSource> OpenLlama2c(const std::string& path);

// The same of a file whose content is `bytes`, which must outlive it.
absl::StatusOr<ModelSource> ParseLlama2c(const std::string& path,
                                         absl::string_view bytes);

}  // namespace strata

#endif  // CORE_CHECKPOINT_LLAMA2C_H_
