#include "core/checkpoint/llama2c.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/mapped_file.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_map.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {
namespace {

constexpr int kHeaderInts = 7;
// Of a file of unknown origin; keeps all sizes within 64 bits.
constexpr int64_t kMaxSize = 1 << 24;

// Hands out the file's floats in order.
class Reader {
 public:
  Reader(absl::string_view bytes, ModelSource& source)
      : bytes_(bytes), source_(source) {}

  void Take(const std::string& name, Shape shape, int64_t paired_heads = 0) {
    StoredTensor tensor;
    tensor.view = {DType::kF32, std::move(shape),
                   const_cast<char*>(bytes_.data() + at_)};
    tensor.paired_heads = paired_heads;
    at_ += tensor.view.num_bytes();
    if (!name.empty()) source_.tensors[name] = tensor;
  }
  int64_t at() const { return at_; }

 private:
  absl::string_view bytes_;
  ModelSource& source_;
  int64_t at_ = kHeaderInts * sizeof(int32_t);
};

}  // namespace

absl::StatusOr<ModelSource> ParseLlama2c(const std::string& path,
                                         absl::string_view bytes) {
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not a llama2.c model: ", what));
  };
  int32_t header[kHeaderInts];
  if (bytes.size() < sizeof(header)) {
    return error(absl::StrCat("it has ", bytes.size(), " bytes"));
  }
  std::memcpy(header, bytes.data(), sizeof(header));
  const int64_t d = header[0], hidden = header[1], layers = header[2],
                heads = header[3], kv_heads = header[4],
                vocab = std::abs(int64_t{header[5]}), seq_len = header[6];
  const bool tied = header[5] > 0;
  for (const int64_t size :
       {d, hidden, layers, heads, kv_heads, vocab, seq_len}) {
    if (size < 1 || size > kMaxSize) {
      return error(absl::StrCat("a size of its header is ", size,
                                "; want 1 to ", kMaxSize));
    }
  }
  if (d % heads != 0) {
    return error(
        absl::StrCat("dim is ", d, "; want a multiple of heads, ", heads));
  }
  ModelSource source;
  ModelConfig& config = source.config;
  config.set_name("llama2c");
  config.set_vocab_size(vocab);
  config.set_d_model(d);
  config.set_num_layers(layers);
  config.set_max_seq_len(seq_len);
  config.set_norm_eps(1e-5);
  config.set_tie_embeddings(tied);
  config.mutable_attention()->set_num_heads(heads);
  config.mutable_attention()->set_num_kv_heads(kv_heads);
  config.mutable_attention()->set_head_dim(d / heads);
  config.mutable_attention()->set_rope_theta(10000);
  config.set_num_dense_layers(layers);
  config.set_dense_width(hidden);
  const absl::Status valid = Validate(config);
  if (!valid.ok()) return error(valid.message());

  const int64_t head_dim = d / heads, kv = kv_heads * head_dim;
  // Floats, each term below 2^53 after Validate's bound on all of them.
  const double floats =
      static_cast<double>(vocab) * d * (tied ? 1 : 2) +
      static_cast<double>(layers) *
          (2.0 * d + 2.0 * d * d + 2.0 * d * kv + 3.0 * d * hidden) +
      d + static_cast<double>(seq_len) * head_dim;
  const double want = sizeof(header) + 4 * floats;
  if (static_cast<double>(bytes.size()) != want) {
    return error(absl::StrCat("it has ", bytes.size(), " bytes; its header, ",
                              layers, " layers of ", d, ", wants ",
                              static_cast<int64_t>(want)));
  }
  Reader reader(bytes, source);
  const auto stack = [&](absl::string_view name, const Shape& shape,
                         int64_t paired_heads = 0) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      reader.Take(absl::StrCat("model.layers.", layer, ".", name, ".weight"),
                  shape, paired_heads);
    }
  };
  reader.Take("model.embed_tokens.weight", {vocab, d});
  stack("input_layernorm", {d});
  stack("self_attn.q_proj", {d, d}, heads);
  stack("self_attn.k_proj", {kv, d}, kv_heads);
  stack("self_attn.v_proj", {kv, d});
  stack("self_attn.o_proj", {d, d});
  stack("post_attention_layernorm", {d});
  stack("mlp.gate_proj", {hidden, d});
  stack("mlp.down_proj", {d, hidden});
  stack("mlp.up_proj", {hidden, d});
  reader.Take("model.norm.weight", {d});
  reader.Take("", {seq_len, head_dim});
  if (!tied) reader.Take("lm_head.weight", {vocab, d});
  ASSIGN_OR_RETURN(source.layout.map, HfWeightMap(config));
  return source;
}

absl::StatusOr<ModelSource> OpenLlama2c(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  ASSIGN_OR_RETURN(ModelSource source, ParseLlama2c(path, mapping.bytes()));
  source.mapping = std::move(mapping);
  return source;
}

}  // namespace strata
