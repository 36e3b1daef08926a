#include "core/checkpoint/model_source.h"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/checkpoint/gguf/gguf.h"
#include "core/checkpoint/gguf/gguf_builder.h"
#include "core/checkpoint/gguf_model.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/llama2c.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/tiny_checkpoints.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;

std::vector<float> Numbers(const ModelSource& source, const std::string& name) {
  const auto it = source.tensors.find(name);
  if (it == source.tensors.end()) {
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }
  std::vector<float> out(it->second.view.num_elements());
  EXPECT_THAT(ReadNumbers<float>(name, it->second, nullptr, out.data()),
              IsOk());
  return out;
}

std::vector<float> NumbersOf(const TinyTensor& tensor) {
  std::vector<float> out(tensor.bytes.size() / 4);
  std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

// Rows of a matrix with the halves of each head's rows laid as pairs: what
// llama.cpp and llama2.c have where Hugging Face has halves.
std::string PairedRows(const TinyTensor& tensor, int64_t heads) {
  const int64_t rows = tensor.shape[0];
  const int64_t row_bytes = static_cast<int64_t>(tensor.bytes.size()) / rows;
  const int64_t head = rows / heads, half = head / 2;
  std::string out;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t j = row % head;
    const int64_t from = row - j + j / 2 + (j % 2) * half;
    out += tensor.bytes.substr(from * row_bytes, row_bytes);
  }
  return out;
}

// --- llama2.c ---

struct Llama2c {
  ModelConfig config;
  TinyTensors tensors;
  std::string bytes;
};

// A file of the model "llama_tied" without its rotary scaling.
Llama2c TinyLlama2c(bool tied) {
  Llama2c tiny;
  std::string text = absl::StrReplaceAll(
      TinyConfigText("llama_tied"),
      {{R"({"type": "dynamic", "factor": 2.0})", "null"},
       {"\"vocab_size\"", "\"rms_norm_eps\": 1e-5, \"vocab_size\""}});
  if (!tied) text = absl::StrReplaceAll(text, {{"true", "false"}});
  tiny.config = *ModelConfigFromHf(text);
  tiny.tensors = RandomWeights(text, DType::kF32);
  for (const int32_t size : {24, 20, 2, 4, 4, tied ? 40 : -40, 16}) {
    tiny.bytes += Raw(size);
  }
  const auto stack = [&](const std::string& name, int64_t heads = 0) {
    for (int layer = 0; layer < 2; ++layer) {
      const TinyTensor& tensor = tiny.tensors.at(
          absl::StrCat("model.layers.", layer, ".", name, ".weight"));
      tiny.bytes += heads == 0 ? tensor.bytes : PairedRows(tensor, heads);
    }
  };
  tiny.bytes += tiny.tensors.at("model.embed_tokens.weight").bytes;
  stack("input_layernorm");
  stack("self_attn.q_proj", 4);
  stack("self_attn.k_proj", 4);
  stack("self_attn.v_proj");
  stack("self_attn.o_proj");
  stack("post_attention_layernorm");
  stack("mlp.gate_proj");
  stack("mlp.down_proj");
  stack("mlp.up_proj");
  tiny.bytes += tiny.tensors.at("model.norm.weight").bytes;
  tiny.bytes += std::string(16 * 6 * 4, '\0');  // Rotary tables.
  if (!tied) tiny.bytes += tiny.tensors.at("lm_head.weight").bytes;
  return tiny;
}

TEST(Llama2cTest, IsTheSameModelAsTheLlama) {
  for (const bool tied : {true, false}) {
    Llama2c tiny = TinyLlama2c(tied);
    const auto source = ParseLlama2c("f.bin", tiny.bytes);
    ASSERT_THAT(source, IsOk());
    tiny.config.set_name("llama2c");
    EXPECT_EQ(ToJson(source->config), ToJson(tiny.config));
    for (const auto& [name, tensor] : tiny.tensors) {
      EXPECT_EQ(Numbers(*source, name), NumbersOf(tensor)) << name;
    }
    EXPECT_EQ(source->tensors.size(), tiny.tensors.size());
  }
}

TEST(Llama2cTest, RefusesWhatIsNone) {
  const std::string bytes = TinyLlama2c(true).bytes;
  EXPECT_THAT(ParseLlama2c("f.bin", bytes.substr(0, 27)),
              StatusIs(kInvalid, HasSubstr("f.bin: not a llama2.c model: it "
                                           "has 27 bytes")));
  EXPECT_THAT(ParseLlama2c("f.bin", bytes + "x"),
              StatusIs(kInvalid, HasSubstr("its header, 2 layers of 24, "
                                           "wants")));
  EXPECT_THAT(ParseLlama2c("f.bin", bytes.substr(0, bytes.size() - 4)),
              StatusIs(kInvalid, HasSubstr("wants")));
  EXPECT_THAT(ParseLlama2c("f.bin", std::string(28, '\0')),
              StatusIs(kInvalid, HasSubstr("a size of its header is 0")));
}

TEST(Llama2cTest, SurvivesEveryChangedHeader) {
  const std::string bytes = TinyLlama2c(true).bytes;
  for (int i = 0; i < 28; ++i) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(byte);
      const auto source = ParseLlama2c("f", changed);
      EXPECT_TRUE(changed == bytes || !source.ok()) << i << " " << byte;
    }
  }
}

// --- GGUF ---

// The public names of a block's tensors, without the experts'.
const std::map<std::string, std::string>& GgufNames() {
  static const auto* const kNames = new std::map<std::string, std::string>{
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.q_a_proj", "attn_q_a"},
      {"self_attn.q_a_layernorm", "attn_q_a_norm"},
      {"self_attn.q_b_proj", "attn_q_b"},
      {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
      {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"mlp.gate", "ffn_gate_inp"},
      {"block_sparse_moe.gate", "ffn_gate_inp"},
      {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
      {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
      {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
  };
  return *kNames;
}

// Writes a public checkpoint's tensors as llama.cpp's converter does.
void AddTensors(const ModelConfig& config, const TinyTensors& tensors,
                bool llama, GgufBuilder& gguf) {
  std::map<std::string, std::pair<Shape, std::string>> stacks;
  for (const auto& [name, tensor] : tensors) {
    if (name == "model.embed_tokens.weight" || name == "lm_head.weight" ||
        name == "model.norm.weight") {
      gguf.Tensor(name == "lm_head.weight"      ? "output.weight"
                  : name == "model.norm.weight" ? "output_norm.weight"
                                                : "token_embd.weight",
                  tensor.shape, 0, tensor.bytes);
      continue;
    }
    const std::string rest = name.substr(std::strlen("model.layers."));
    const std::string block = absl::StrCat("blk.", rest.substr(0, 1), ".");
    const std::string what = rest.substr(2);
    const size_t end = what.rfind('.');
    const std::string stem = what.substr(0, end), ending = what.substr(end);
    if (stem == "mlp.gate" && ending == ".e_score_correction_bias") {
      gguf.Tensor(block + "exp_probs_b.bias", tensor.shape, 0, tensor.bytes);
    } else if (absl::StrContains(stem, "experts.") &&
               !absl::StrContains(stem, "shared")) {
      const char* const kind =
          absl::EndsWith(stem, "gate_proj") || absl::EndsWith(stem, "w1")
              ? "ffn_gate_exps"
          : absl::EndsWith(stem, "up_proj") || absl::EndsWith(stem, "w3")
              ? "ffn_up_exps"
              : "ffn_down_exps";
      auto& [shape, bytes] = stacks[absl::StrCat(block, kind, ".weight")];
      shape = {config.moe().flat().num_experts(), tensor.shape[0],
               tensor.shape[1]};
      bytes += tensor.bytes;  // Fewer than ten experts: in order of names.
    } else if (stem == "self_attn.kv_b_proj") {
      const LatentAttentionConfig& l = config.attention().latent();
      const int64_t heads = config.attention().num_heads();
      const std::vector<float> w = NumbersOf(tensor);
      std::string k, v;
      for (int64_t h = 0; h < heads; ++h) {
        const float* const head =
            w.data() + h * (l.nope_dim() + l.value_dim()) * l.kv_rank();
        for (int64_t r = 0; r < l.kv_rank(); ++r) {
          for (int64_t j = 0; j < l.nope_dim(); ++j) {
            k += Raw(head[j * l.kv_rank() + r]);
          }
        }
        for (int64_t i = 0; i < l.value_dim() * l.kv_rank(); ++i) {
          v += Raw(head[l.nope_dim() * l.kv_rank() + i]);
        }
      }
      gguf.Tensor(block + "attn_k_b.weight", {heads, l.kv_rank(), l.nope_dim()},
                  0, k);
      gguf.Tensor(block + "attn_v_b.weight",
                  {heads, l.value_dim(), l.kv_rank()}, 0, v);
    } else {
      const std::string& known = GgufNames().at(stem);
      const bool paired = llama && (known == "attn_q" || known == "attn_k");
      const int64_t heads = known == "attn_q"
                                ? config.attention().num_heads()
                                : config.attention().num_kv_heads();
      gguf.Tensor(block + known + ending, tensor.shape, 0,
                  paired ? PairedRows(tensor, heads) : tensor.bytes);
    }
  }
  for (const auto& [name, stack] : stacks) {
    gguf.Tensor(name, stack.first, 0, stack.second);
  }
}

struct GgufCase {
  ModelConfig config;
  TinyTensors tensors;
  GgufBuilder gguf;
};

GgufCase TinyGguf(const std::string& name, const std::string& architecture) {
  GgufCase c;
  std::string text = TinyConfigText(name);
  // What GGUF has no keys for.
  text = absl::StrReplaceAll(
      text, {{"\"sliding_window\": 5", "\"sliding_window\": null"},
             {"\"decoder_sparse_step\": 2", "\"decoder_sparse_step\": 1"},
             {"[3]", "[]"},
             {"\"norm_topk_prob\": false", "\"norm_topk_prob\": true"},
             {"\"attention_bias\": true", "\"attention_bias\": false"}});
  c.config = *ModelConfigFromHf(text);
  c.tensors = RandomWeights(text, DType::kF32);
  GgufBuilder& gguf = c.gguf;
  gguf.Text("general.architecture", architecture);
  gguf.Strings("tokenizer.ggml.tokens", {"<s>", "a", ""});
  const std::string p = architecture + ".";
  const AttentionConfig& a = c.config.attention();
  const FlatRouterConfig& flat = c.config.moe().flat();
  gguf.Int(p + "embedding_length", c.config.d_model());
  gguf.Int(p + "block_count", c.config.num_layers());
  gguf.Int(p + "context_length", c.config.max_seq_len());
  gguf.Int(p + "attention.head_count", a.num_heads());
  gguf.Float(p + "attention.layer_norm_rms_epsilon",
             static_cast<float>(c.config.norm_eps()));
  gguf.Float(p + "rope.freq_base", static_cast<float>(a.rope_theta()));
  gguf.Int(p + "expert_count", flat.num_experts());
  gguf.Int(p + "expert_used_count", flat.k());
  if (a.has_latent()) {
    const LatentAttentionConfig& l = a.latent();
    if (l.q_rank() > 0) gguf.Int(p + "attention.q_lora_rank", l.q_rank());
    gguf.Int(p + "attention.kv_lora_rank", l.kv_rank());
    gguf.Int(p + "rope.dimension_count", l.rope_dim());
    gguf.Int(p + "attention.key_length", l.kv_rank() + l.rope_dim());
    gguf.Int(p + "attention.key_length_mla", l.nope_dim() + l.rope_dim());
    gguf.Int(p + "attention.value_length_mla", l.value_dim());
    gguf.Int(p + "leading_dense_block_count", c.config.num_dense_layers());
    gguf.Int(p + "feed_forward_length", c.config.dense_width());
    gguf.Int(p + "expert_feed_forward_length", c.config.moe().expert_width());
    gguf.Int(p + "expert_shared_count",
             c.config.moe().shared_width() / c.config.moe().expert_width());
    gguf.Float(p + "expert_weights_scale", static_cast<float>(flat.scale()));
    gguf.Int(p + "expert_weights_norm", flat.normalize());
    gguf.Int(p + "expert_gating_func", flat.correction_bias() ? 2 : 1);
    gguf.Int(p + "expert_group_count", flat.num_groups());
    gguf.Int(p + "expert_group_used_count", flat.top_groups());
    if (a.rope_scaling().type() == RopeScaling::YARN) {
      gguf.Text(p + "rope.scaling.type", "yarn");
      gguf.Float(p + "rope.scaling.factor", 4);
      gguf.Int(p + "rope.scaling.original_context_length", 16);
      gguf.Float(p + "rope.scaling.yarn_log_multiplier", 0.0707f);
    }
  } else {
    gguf.Int(p + "attention.head_count_kv", a.num_kv_heads());
    gguf.Int(p + "attention.key_length", a.head_dim());
    gguf.Int(p + "attention.value_length", a.head_dim());
    gguf.Int(p + (architecture == "llama" ? "feed_forward_length"
                                          : "expert_feed_forward_length"),
             c.config.moe().expert_width());
    if (a.rope_scaling().type() == RopeScaling::LINEAR) {
      gguf.Text(p + "rope.scaling.type", "linear");
      gguf.Float(p + "rope.scaling.factor", 4);
    }
  }
  return c;
}

struct GgufName {
  const char* config;
  const char* architecture;
};

class GgufModelTest : public ::testing::TestWithParam<GgufName> {};

TEST_P(GgufModelTest, IsTheSameModelAsThePublicCheckpoint) {
  GgufCase c = TinyGguf(GetParam().config, GetParam().architecture);
  AddTensors(c.config, c.tensors,
             GetParam().architecture == std::string("llama"), c.gguf);
  const std::string bytes = c.gguf.Build();
  const auto source = ParseGgufModel("f.gguf", bytes);
  ASSERT_THAT(source, IsOk());
  EXPECT_EQ(source->tensors.size(), c.tensors.size());
  for (const auto& [name, tensor] : c.tensors) {
    EXPECT_EQ(Numbers(*source, name), NumbersOf(tensor)) << name;
  }
  // Single precision and the architecture's name apart, the same config.
  ModelConfig config = source->config;
  config.set_name(c.config.name());
  if (config.attention().has_latent()) {
    EXPECT_NEAR(config.attention().rope_scaling().mscale_all_dim(),
                c.config.attention().rope_scaling().mscale_all_dim(), 1e-6);
    *config.mutable_attention()->mutable_rope_scaling() =
        c.config.attention().rope_scaling();
    if (!c.config.attention().has_rope_scaling()) {
      config.mutable_attention()->clear_rope_scaling();
    }
  }
  EXPECT_EQ(ToJson(config), ToJson(c.config));
}

INSTANTIATE_TEST_SUITE_P(All, GgufModelTest,
                         ::testing::Values(GgufName{"mixtral", "llama"},
                                           GgufName{"qwen3_moe", "qwen3moe"},
                                           GgufName{"deepseek_v2", "deepseek2"},
                                           GgufName{"deepseek_v3",
                                                    "deepseek2"}),
                         [](const ::testing::TestParamInfo<GgufName>& info) {
                           return std::string(info.param.config);
                         });

TEST(GgufTest, ReadsHalvesAndBlocks) {
  GgufBuilder gguf;
  gguf.Tensor("h", {2}, 1, Raw<uint16_t>(0x3c00) + Raw<uint16_t>(0x4000));
  gguf.Tensor("b", {1}, 30, Raw<uint16_t>(0x3f80));
  gguf.Tensor("q8", {1, 32}, 8,
              Raw<uint16_t>(0x3c00) + std::string(32, '\x05'));
  gguf.Tensor("q4", {1, 32}, 2,
              Raw<uint16_t>(0x3c00) + std::string(16, '\x9a'));
  const std::string bytes = gguf.Build(/*version=*/2);
  const auto file = ParseGguf("f", bytes);
  ASSERT_THAT(file, IsOk());
  const auto first = [&](const char* name, int at) {
    std::vector<float> out(file->tensors.at(name).view.num_elements());
    EXPECT_THAT(
        ReadNumbers<float>(name, file->tensors.at(name), nullptr, out.data()),
        IsOk());
    return out[at];
  };
  EXPECT_EQ(first("h", 1), 2);
  EXPECT_EQ(first("b", 0), 1);
  EXPECT_EQ(first("q8", 31), 5);
  EXPECT_EQ(first("q4", 0), 2);   // 0xa - 8
  EXPECT_EQ(first("q4", 16), 1);  // 0x9 - 8
}

TEST(GgufTest, RefusesWhatItCannotRead) {
  const auto refuses = [](const std::string& bytes, absl::StatusCode code,
                          const std::string& message) {
    EXPECT_THAT(ParseGgufModel("f.gguf", bytes),
                StatusIs(code, ::testing::AllOf(HasSubstr("f.gguf: "),
                                                HasSubstr(message))));
  };
  GgufBuilder other;
  other.Text("general.architecture", "gpt2");
  refuses(other.Build(), kUnsupported,
          "the architecture \"gpt2\" is not supported; want llama, qwen3moe "
          "or deepseek2");
  refuses("GGML" + std::string(20, '\0'), kInvalid, "does not begin with GGUF");
  refuses(other.Build(/*version=*/1), kUnsupported, "its version is 1");
  GgufBuilder k_quants;
  k_quants.Tensor("x", {1, 256}, 12, std::string(144, '\0'));
  refuses(k_quants.Build(), kUnsupported, "GGML type 12");
  GgufBuilder odd;
  odd.Tensor("x", {1, 33}, 8, std::string(68, '\0'));
  refuses(odd.Build(), kInvalid, "rows of 33; want a multiple of 32");
  GgufBuilder twice;
  twice.Tensor("x", {1}, 0, "1234");
  twice.Tensor("x", {1}, 0, "1234");
  refuses(twice.Build(), kInvalid, "tensor \"x\" appears twice");
  GgufBuilder beyond;
  beyond.Tensor("x", {1000}, 0, "1234");
  refuses(beyond.Build(), kInvalid, "4000 bytes at 0, beyond the 32 bytes");

  GgufCase half = TinyGguf("deepseek_v3", "deepseek2");
  AddTensors(half.config, half.tensors, false, half.gguf);
  const std::string whole = half.gguf.Build();
  refuses(absl::StrReplaceAll(whole, {{"blk.1.attn_v_b", "blk.1.attn_v_c"}}),
          kInvalid, "want both or none");
  half.gguf.Tensor("rope_freqs.weight", {2}, 0, "12345678");
  refuses(half.gguf.Build(), kUnsupported, "rotary factors");
}

// Whatever a byte of the header is changed to, and wherever the file ends,
// reading ends, and what it gives lies within the file.
TEST(GgufTest, SurvivesEveryChangedByteOfItsHeader) {
  GgufCase c = TinyGguf("mixtral", "llama");
  AddTensors(c.config, c.tensors, true, c.gguf);
  const std::string bytes = c.gguf.Build();
  const size_t header = 3000;
  ASSERT_GT(bytes.size(), header);
  for (size_t i = 0; i < header; ++i) {
    for (const int byte : {0, 1, 0x7f, 0xff}) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(byte);
      const auto file = ParseGguf("f", changed);
      if (!file.ok()) continue;
      for (const auto& [name, tensor] : file->tensors) {
        const char* const data = static_cast<const char*>(tensor.view.data);
        const int64_t size =
            tensor.packing == StoredTensor::Packing::kNone
                ? tensor.view.num_bytes()
                : PackedBytes(tensor.packing, tensor.view.num_elements());
        ASSERT_GE(data, changed.data());
        ASSERT_LE(data + size, changed.data() + changed.size());
      }
    }
    EXPECT_FALSE(ParseGguf("f", bytes.substr(0, i)).ok());
  }
}

TEST(OpenModelSourceTest, WantsAModel) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/no.model");
  EXPECT_THAT(OpenModelSource(path),
              StatusIs(kInvalid, HasSubstr("is no model: want a folder with "
                                           "config.json, a GGUF file")));
}

}  // namespace
}  // namespace strata
