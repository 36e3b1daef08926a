// GGUF files: the format, and the models in it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/checkpoint/gguf/gguf.h"
#include "core/checkpoint/gguf/gguf_builder.h"
#include "core/checkpoint/gguf_model.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/tensor/shape.h"
#include "core/testing/fuzz_target.h"

namespace {

void CheckRefusal(const absl::Status& status) {
  CHECK(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status))
      << status;
  CHECK(!status.message().empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace strata;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto file = ParseGguf("f.gguf", bytes);
  if (!file.ok()) {
    CheckRefusal(file.status());
    return 0;
  }
  for (const auto& [name, tensor] : file->tensors) {
    std::vector<float> numbers(tensor.view.num_elements());
    const absl::Status status =
        ReadNumbers<float>(name, tensor, /*scale=*/nullptr, numbers.data());
    CHECK(status.ok() || absl::IsInvalidArgument(status)) << status;
  }
  const auto model = ParseGgufModel("f.gguf", bytes);
  if (!model.ok()) CheckRefusal(model.status());
  return 0;
}

namespace strata {

std::vector<std::string> FuzzSeeds() {
  GgufBuilder types;
  types.Text("general.architecture", "llama");
  types.Strings("tokenizer.ggml.tokens", {"<s>", "a", ""});
  types.Int("general.alignment", 32);
  types.Float("x", 0.5f);
  types.Tensor("f", {3}, 0, std::string(12, 1));
  types.Tensor("h", {2, 1}, 1, Raw<uint16_t>(0x3c00) + Raw<uint16_t>(0x4000));
  types.Tensor("b", {1}, 30, Raw<uint16_t>(0x3f80));
  types.Tensor("q8", {2, 32}, 8, std::string(2 * 34, 1));
  types.Tensor("q4", {32}, 2, std::string(18, 1));

  // One layer of width 4 with two heads of 2.
  GgufBuilder llama;
  llama.Text("general.architecture", "llama");
  for (const auto& [key, value] : std::vector<std::pair<std::string, int>>{
           {"embedding_length", 4},
           {"block_count", 1},
           {"context_length", 16},
           {"feed_forward_length", 6},
           {"attention.head_count", 2},
           {"attention.head_count_kv", 1}}) {
    llama.Int("llama." + key, value);
  }
  llama.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  const auto tensor = [&](const std::string& name, const Shape& shape) {
    llama.Tensor(name, shape, 0, std::string(4 * NumElements(shape), 1));
  };
  tensor("token_embd.weight", {5, 4});
  tensor("output_norm.weight", {4});
  tensor("output.weight", {5, 4});
  tensor("blk.0.attn_norm.weight", {4});
  tensor("blk.0.ffn_norm.weight", {4});
  tensor("blk.0.attn_q.weight", {4, 4});
  tensor("blk.0.attn_k.weight", {2, 4});
  tensor("blk.0.attn_v.weight", {2, 4});
  tensor("blk.0.attn_output.weight", {4, 4});
  tensor("blk.0.ffn_gate.weight", {6, 4});
  tensor("blk.0.ffn_up.weight", {6, 4});
  tensor("blk.0.ffn_down.weight", {4, 6});
  const std::string model = llama.Build();
  CHECK(ParseGgufModel("seed", model).ok())
      << ParseGgufModel("seed", model).status();
  return {types.Build(), model};
}

}  // namespace strata
