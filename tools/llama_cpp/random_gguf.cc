#include "tools/llama_cpp/random_gguf.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/checkpoint/gguf/gguf_builder.h"
#include "core/model/config.pb.h"
#include "core/tensor/shape.h"
#include "core/testing/random_bits.h"

namespace strata {
namespace {

// GGML's numbers of them.
enum Type : uint32_t { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ8_0 = 8 };

constexpr int64_t kBlock = 32;
constexpr int64_t kPieceBytes = 1 << 20;

struct Tensor {
  std::string name;
  Shape shape;
  Type type;
  double share = 1;  // Of its bytes, what a token reads.

  int64_t num_bytes() const {
    const int64_t n = NumElements(shape);
    switch (type) {
      case kF32:
        return n * 4;
      case kF16:
        return n * 2;
      case kQ4_0:
        return n / kBlock * (2 + kBlock / 2);
      case kQ8_0:
        return n / kBlock * (2 + kBlock);
    }
    return 0;
  }
};

std::vector<Tensor> TensorsOf(const ModelConfig& config, GgufWeights weights) {
  const Type type = weights == GgufWeights::kF16    ? kF16
                    : weights == GgufWeights::kQ8_0 ? kQ8_0
                                                    : kQ4_0;
  const AttentionConfig& attention = config.attention();
  const FlatRouterConfig& router = config.moe().flat();
  const int64_t d = config.d_model(), vocab = config.vocab_size();
  const int64_t head = attention.head_dim();
  const int64_t q = attention.num_heads() * head;
  const int64_t kv = attention.num_kv_heads() * head;
  const int64_t experts = router.num_experts();
  const int64_t width = config.moe().expert_width();
  const double used =
      static_cast<double>(router.k()) / static_cast<double>(experts);
  std::vector<Tensor> tensors = {
      {"token_embd.weight", {vocab, d}, kF16, 1.0 / static_cast<double>(vocab)},
      {"output_norm.weight", {d}, kF32},
      {"output.weight", {vocab, d}, type == kQ4_0 ? kQ8_0 : type}};
  for (int64_t layer = 0; layer < config.num_layers(); ++layer) {
    const auto add = [&](const char* name, const Shape& shape, Type of,
                         double share = 1) {
      tensors.push_back({absl::StrCat("blk.", layer, ".", name, ".weight"),
                         shape, of, share});
    };
    add("attn_norm", {d}, kF32);
    add("attn_q", {q, d}, type);
    add("attn_k", {kv, d}, type);
    add("attn_v", {kv, d}, type);
    add("attn_output", {d, q}, type);
    add("attn_q_norm", {head}, kF32);
    add("attn_k_norm", {head}, kF32);
    add("ffn_norm", {d}, kF32);
    add("ffn_gate_inp", {experts, d}, kF32);
    add("ffn_gate_exps", {experts, width, d}, type, used);
    add("ffn_up_exps", {experts, width, d}, type, used);
    add("ffn_down_exps", {experts, d, width}, type, used);
  }
  return tensors;
}

void AddVocabulary(int64_t size, GgufHeader& header) {
  constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {kUnknown, kControl, kControl};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(absl::StrFormat("<0x%02X>", byte));
    types.push_back(kByte);
  }
  while (static_cast<int64_t>(tokens.size()) < size) {
    tokens.push_back(absl::StrCat("\xE2\x96\x81w", tokens.size()));
    types.push_back(kNormal);
  }
  std::vector<float> scores(tokens.size());
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = -static_cast<float>(i);
  header.Text("tokenizer.ggml.model", "llama");
  header.Strings("tokenizer.ggml.tokens", tokens);
  header.Floats("tokenizer.ggml.scores", scores);
  header.Ints("tokenizer.ggml.token_type", types);
  header.Int("tokenizer.ggml.unknown_token_id", 0);
  header.Int("tokenizer.ggml.bos_token_id", 1);
  header.Int("tokenizer.ggml.eos_token_id", 2);
}

GgufHeader HeaderOf(const ModelConfig& config, GgufWeights weights) {
  const AttentionConfig& attention = config.attention();
  const FlatRouterConfig& router = config.moe().flat();
  GgufHeader header;
  const auto add = [&](const char* key, int64_t value) {
    header.Int(absl::StrCat("qwen3moe.", key), static_cast<uint32_t>(value));
  };
  header.Text("general.architecture", "qwen3moe");
  header.Text("general.name", config.name());
  // llama.cpp's numbers of what most tensors are.
  header.Int("general.file_type", weights == GgufWeights::kF16    ? 1
                                  : weights == GgufWeights::kQ8_0 ? 7
                                                                  : 2);
  add("block_count", config.num_layers());
  add("context_length", config.max_seq_len());
  add("embedding_length", config.d_model());
  add("feed_forward_length", config.moe().expert_width());
  add("expert_feed_forward_length", config.moe().expert_width());
  add("expert_count", router.num_experts());
  add("expert_used_count", router.k());
  add("attention.head_count", attention.num_heads());
  add("attention.head_count_kv", attention.num_kv_heads());
  add("attention.key_length", attention.head_dim());
  add("attention.value_length", attention.head_dim());
  add("vocab_size", config.vocab_size());
  header.Float("qwen3moe.attention.layer_norm_rms_epsilon",
               static_cast<float>(config.norm_eps()));
  header.Float("qwen3moe.rope.freq_base",
               static_cast<float>(attention.rope_theta()));
  AddVocabulary(config.vocab_size(), header);
  return header;
}

// A positive number that F16 has as a normal one, cut to its 10 bits.
uint16_t HalfOf(double x) {
  int exponent = 0;
  const double mantissa = std::frexp(x, &exponent);  // [0.5, 1) 2^exponent
  return static_cast<uint16_t>((exponent + 14) << 10 |
                               static_cast<int>((mantissa * 2 - 1) * 1024));
}

// Fills `out` [n] of a matrix of `columns`, whole blocks of it.
void FillRandom(const Tensor& tensor, RandomBits& bits, int64_t n, char* out) {
  const auto columns = static_cast<double>(tensor.shape.back());
  if (tensor.shape.size() == 1) {
    for (int64_t i = 0; i < n; i += 4) {
      const float one = 1;
      std::memcpy(out + i, &one, 4);
    }
    return;
  }
  if (tensor.type == kF32) {
    const auto scale =
        static_cast<float>(std::ldexp(std::sqrt(3 / columns), -31));
    for (int64_t i = 0; i < n; i += 4) {
      const float x =
          static_cast<float>(static_cast<int32_t>(bits.Next())) * scale;
      std::memcpy(out + i, &x, 4);
    }
    return;
  }
  if (tensor.type == kF16) {
    // Of random sign and, evenly, 1 to 2 times 2^e: 7/3 4^e in the mean square.
    const int exponent =
        static_cast<int>(std::lround(std::log2(std::sqrt(3 / 7.0 / columns))));
    for (int64_t i = 0; i < n; i += 2) {
      const auto random = static_cast<uint16_t>(bits.Next() >> 32);
      const auto half =
          static_cast<uint16_t>((random & 0x83FF) | (exponent + 15) << 10);
      std::memcpy(out + i, &half, 2);
    }
    return;
  }
  // Codes are uniform over 16 or 256 steps.
  const int64_t code_bytes = tensor.type == kQ4_0 ? kBlock / 2 : kBlock;
  const double steps = tensor.type == kQ4_0 ? 16 : 256;
  const uint16_t scale = HalfOf(std::sqrt(12 / columns) / steps);
  for (int64_t i = 0; i < n; i += 2 + code_bytes) {
    std::memcpy(out + i, &scale, 2);
    for (int64_t b = 0; b < code_bytes; b += 8) {
      const uint64_t word = bits.Next();
      std::memcpy(out + i + 2 + b, &word, 8);
    }
  }
}

}  // namespace

absl::StatusOr<RandomGguf> WriteRandomGguf(const ModelConfig& config,
                                           GgufWeights weights,
                                           const std::string& path) {
  if (!config.has_moe() || !config.moe().has_flat() ||
      config.attention().has_latent() || !config.attention().qk_norm() ||
      config.num_dense_layers() > 0 || config.tie_embeddings()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model ", config.name(), " is none that qwen3moe describes"));
  }
  const std::vector<Tensor> tensors = TensorsOf(config, weights);
  GgufHeader header = HeaderOf(config, weights);
  for (const Tensor& tensor : tensors) {
    header.Declare(tensor.name, tensor.shape, tensor.type, tensor.num_bytes());
  }
  std::ofstream file(path, std::ios::binary);
  const std::string head = header.Build();
  file.write(head.data(), static_cast<std::streamsize>(head.size()));
  RandomGguf written;
  written.file_bytes = static_cast<int64_t>(head.size());
  RandomBits bits;
  std::vector<char> piece;
  for (const Tensor& tensor : tensors) {
    const int64_t bytes = tensor.num_bytes();
    const int64_t unit = tensor.type == kQ4_0   ? 2 + kBlock / 2
                         : tensor.type == kQ8_0 ? 2 + kBlock
                                                : 4;
    const int64_t step = kPieceBytes / unit * unit;
    for (int64_t at = 0; at < bytes; at += step) {
      piece.resize(std::min(step, bytes - at));
      FillRandom(tensor, bits, static_cast<int64_t>(piece.size()),
                 piece.data());
      file.write(piece.data(), static_cast<std::streamsize>(piece.size()));
    }
    const std::string padding((32 - bytes % 32) % 32, '\0');
    file.write(padding.data(), static_cast<std::streamsize>(padding.size()));
    written.num_weights += NumElements(tensor.shape);
    written.file_bytes += bytes + static_cast<int64_t>(padding.size());
    written.bytes_per_token += tensor.share * static_cast<double>(bytes);
  }
  file.close();
  if (!file) {
    return absl::DataLossError(
        absl::StrCat(path, ": writing ", written.file_bytes, " bytes failed"));
  }
  return written;
}

}  // namespace strata
