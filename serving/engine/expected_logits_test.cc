// Public checkpoints, held to a plain implementation of what they compute: a
// token, a head and an expert at a time, in double, straight from the file's
// names.

#include "serving/engine/expected_logits.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/tiny_checkpoints.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_storage.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using Vector = std::vector<double>;

// Llama, Mixtral and Qwen3-MoE by their definitions.
class Plain {
 public:
  Plain(const ModelConfig& config, const TinyTensors& tensors)
      : config_(config), tensors_(tensors) {}

  // Logits of every token.
  std::vector<Vector> Logits(const std::vector<int32_t>& ids) const {
    std::vector<Vector> h;
    for (const int32_t id : ids) h.push_back(Row("model.embed_tokens", id));
    for (int64_t layer = 0; layer < config_.num_layers(); ++layer) {
      const std::string prefix = absl::StrCat("model.layers.", layer, ".");
      Attend(prefix, h);
      for (Vector& x : h) {
        AddTo(x, FeedForward(prefix, layer,
                             Norm(prefix + "post_attention_layernorm", x)));
      }
    }
    std::vector<Vector> logits;
    for (const Vector& x : h) {
      logits.push_back(
          Product(config_.tie_embeddings() ? "model.embed_tokens" : "lm_head",
                  Norm("model.norm", x)));
    }
    return logits;
  }

 private:
  Vector Numbers(const std::string& name) const {
    const TinyTensor& tensor = tensors_.at(name);
    std::vector<float> numbers(tensor.bytes.size() / 4);
    std::memcpy(numbers.data(), tensor.bytes.data(), tensor.bytes.size());
    return Vector(numbers.begin(), numbers.end());
  }
  Vector Row(const std::string& name, int64_t row) const {
    const Vector all = Numbers(name + ".weight");
    const int64_t n = tensors_.at(name + ".weight").shape[1];
    return Vector(all.begin() + row * n, all.begin() + (row + 1) * n);
  }
  // Weight times x, and the bias if there is one.
  Vector Product(const std::string& name, const Vector& x) const {
    const Vector w = Numbers(name + ".weight");
    Vector y(w.size() / x.size());
    if (tensors_.count(name + ".bias") > 0) y = Numbers(name + ".bias");
    for (size_t i = 0; i < w.size(); ++i) {
      y[i / x.size()] += w[i] * x[i % x.size()];
    }
    return y;
  }
  static void AddTo(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  Vector Norm(const std::string& name, const Vector& x) const {
    const Vector gain = Numbers(name + ".weight");
    Vector y = x;
    // Heads one by one where the gain is a head's.
    for (size_t first = 0; first < x.size(); first += gain.size()) {
      double squares = 0;
      for (size_t i = 0; i < gain.size(); ++i) {
        squares += x[first + i] * x[first + i];
      }
      const double scale =
          1 / std::sqrt(squares / gain.size() + config_.norm_eps());
      for (size_t i = 0; i < gain.size(); ++i) {
        y[first + i] *= scale * gain[i];
      }
    }
    return y;
  }

  double Frequency(int64_t j, int64_t seq_len) const {
    const AttentionConfig& a = config_.attention();
    const RopeScaling& s = a.rope_scaling();
    const double dim = a.head_dim();
    double theta = a.rope_theta();
    const double longest = s.original_max_seq_len();
    if (s.type() == RopeScaling::DYNAMIC && seq_len > longest) {
      theta *= std::pow(s.factor() * seq_len / longest - (s.factor() - 1),
                        dim / (dim - 2));
    }
    const double f = std::pow(theta, -2 * j / dim);
    if (s.type() == RopeScaling::LINEAR) return f / s.factor();
    if (s.type() != RopeScaling::LLAMA3) return f;
    const double wave = 2 * M_PI / f;
    if (wave > longest / s.low_freq_factor()) return f / s.factor();
    if (wave < longest / s.high_freq_factor()) return f;
    const double smooth = (longest / wave - s.low_freq_factor()) /
                          (s.high_freq_factor() - s.low_freq_factor());
    return (1 - smooth) * f / s.factor() + smooth * f;
  }

  void Rotate(Vector& x, int64_t position, int64_t seq_len) const {
    const int64_t dim = config_.attention().head_dim(), half = dim / 2;
    for (size_t head = 0; head < x.size(); head += dim) {
      for (int64_t j = 0; j < half; ++j) {
        const double angle = position * Frequency(j, seq_len);
        double& a = x[head + j];
        double& b = x[head + j + half];
        const double low = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = low;
      }
    }
  }

  void Attend(const std::string& prefix, std::vector<Vector>& h) const {
    const AttentionConfig& a = config_.attention();
    const std::string name = prefix + "self_attn.";
    const auto t = static_cast<int64_t>(h.size());
    std::vector<Vector> q, k, v;
    for (int64_t i = 0; i < t; ++i) {
      const Vector x = Norm(prefix + "input_layernorm", h[i]);
      q.push_back(Product(name + "q_proj", x));
      k.push_back(Product(name + "k_proj", x));
      v.push_back(Product(name + "v_proj", x));
      if (a.qk_norm()) {
        q.back() = Norm(name + "q_norm", q.back());
        k.back() = Norm(name + "k_norm", k.back());
      }
      Rotate(q.back(), i, t);
      Rotate(k.back(), i, t);
    }
    const int64_t dim = a.head_dim();
    for (int64_t i = 0; i < t; ++i) {
      Vector o(q[i].size());
      for (int64_t head = 0; head < a.num_heads(); ++head) {
        const int64_t kv = head / (a.num_heads() / a.num_kv_heads());
        const int64_t first =
            a.window() > 0 ? std::max<int64_t>(0, i - a.window() + 1) : 0;
        double sum = 0;
        Vector p(t);
        for (int64_t j = first; j <= i; ++j) {
          double score = 0;
          for (int64_t c = 0; c < dim; ++c) {
            score += q[i][head * dim + c] * k[j][kv * dim + c];
          }
          p[j] = std::exp(score / std::sqrt(static_cast<double>(dim)));
          sum += p[j];
        }
        for (int64_t j = first; j <= i; ++j) {
          for (int64_t c = 0; c < dim; ++c) {
            o[head * dim + c] += p[j] / sum * v[j][kv * dim + c];
          }
        }
      }
      AddTo(h[i], Product(name + "o_proj", o));
    }
  }

  Vector SwiGlu(const std::string& gate, const std::string& up,
                const std::string& down, const Vector& x) const {
    Vector g = Product(gate, x);
    const Vector u = Product(up, x);
    for (size_t i = 0; i < g.size(); ++i) g[i] *= u[i] / (1 + std::exp(-g[i]));
    return Product(down, g);
  }

  Vector FeedForward(const std::string& prefix, int64_t layer,
                     const Vector& x) const {
    const std::string mlp = prefix + "mlp.";
    if (IsDenseLayer(config_, layer)) {
      return SwiGlu(mlp + "gate_proj", mlp + "up_proj", mlp + "down_proj", x);
    }
    const bool mixtral =
        tensors_.count(prefix + "block_sparse_moe.gate.weight") > 0;
    const std::string block = mixtral ? prefix + "block_sparse_moe." : mlp;
    Vector p = Product(block + "gate", x);
    double sum = 0;
    for (double& e : p) sum += e = std::exp(e);
    for (double& e : p) e /= sum;
    std::vector<int> order(p.size());
    for (size_t e = 0; e < p.size(); ++e) order[e] = static_cast<int>(e);
    std::sort(order.begin(), order.end(),
              [&](int a, int b) { return p[a] > p[b]; });
    order.resize(config_.moe().flat().k());
    double chosen = 0;
    for (const int e : order) chosen += p[e];
    Vector y(x.size());
    for (const int e : order) {
      const std::string expert = absl::StrCat(block, "experts.", e, ".");
      Vector part = mixtral
                        ? SwiGlu(expert + "w1", expert + "w3", expert + "w2", x)
                        : SwiGlu(expert + "gate_proj", expert + "up_proj",
                                 expert + "down_proj", x);
      const double weight =
          config_.moe().flat().normalize() ? p[e] / chosen : p[e];
      for (double& number : part) number *= weight;
      AddTo(y, part);
    }
    return y;
  }

  const ModelConfig& config_;
  const TinyTensors& tensors_;
};

class ExpectedLogitsTest : public ::testing::TestWithParam<const char*> {
 protected:
  ExpectedLogitsTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = absl::StrCat(::testing::TempDir(), "/",
                           absl::StrReplaceAll(test->name(), {{"/", "_"}}));
    std::filesystem::remove_all(folder_);
  }

  // The checkpoint, and the file of what the plain model makes of it.
  void Write(const std::string& name) {
    const std::string text = TinyConfigText(name);
    const TinyTensors tensors = RandomWeights(text, DType::kF32);
    WriteCheckpoint(folder_, text, tensors);
    const auto config = LoadModelConfig(folder_);
    ASSERT_THAT(config, IsOk());
    config_ = *config;
    const Plain plain(config_, tensors);
    std::vector<float> logits;
    std::vector<float> ids;
    // Longer than max_position_embeddings of one of them.
    for (int row = 0; row < 2; ++row) {
      std::vector<int32_t> tokens;
      for (int i = 0; i < 24; ++i) tokens.push_back((row + 7 * i) % 40);
      for (const Vector& of_token : plain.Logits(tokens)) {
        logits.insert(logits.end(), of_token.begin(), of_token.end());
      }
      for (const int32_t id : tokens) ids_ += Int(id);
    }
    for (int row = 0; row < 2; ++row) {
      std::vector<int32_t> tokens = {row + 3, 9, 31 - row};
      for (const int32_t id : tokens) prompt_ += Int(id);
      for (int i = 0; i < 6; ++i) {
        const Vector last = plain.Logits(tokens).back();
        tokens.push_back(static_cast<int32_t>(
            std::max_element(last.begin(), last.end()) - last.begin()));
      }
      for (const int32_t id : tokens) greedy_ += Int(id);
    }
    logits_ = FloatTensor({2, 24, 40}, logits).bytes;
    WriteExpected();
  }

  static std::string Int(int32_t value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  std::string Expected() const {
    return absl::StrCat(folder_, "/expected.safetensors");
  }
  void WriteExpected() {
    const auto tensor = [](const char* name, DType dtype, Shape shape,
                           std::string bytes) {
      return TensorToWrite{
          name, dtype, std::move(shape),
          [bytes](TensorToWrite::Append append) { return append(bytes); }};
    };
    ASSERT_THAT(
        WriteWeightsFile(Expected(),
                         {tensor("input_ids", DType::kI32, {2, 24}, ids_),
                          tensor("logits", DType::kF32, {2, 24, 40}, logits_),
                          tensor("prompt", DType::kI32, {2, 3}, prompt_),
                          tensor("greedy", DType::kI32, {2, 9}, greedy_)},
                         {}),
        IsOk());
  }
  absl::StatusOr<ExpectedResult> Compare(
      int num_threads, WeightStorage storage = WeightStorage::kF32) {
    CpuBackend backend(num_threads, AllCpuKernels());
    StateStore state(backend);
    EXPECT_THAT(LoadModelWeights(folder_, config_, state, nullptr, storage),
                IsOk());
    return CompareWithExpected(config_, Expected(), backend, state);
  }

  std::string folder_;
  ModelConfig config_;
  std::string ids_, logits_, prompt_, greedy_;
};

TEST_P(ExpectedLogitsTest, AgreesWithAPlainImplementation) {
  Write(GetParam());
  for (const int num_threads : {1, 2, 3}) {
    const auto result = Compare(num_threads);
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->num_logits, 48);
    // Logits are up to some tens; sums of some ten products in four layers.
    EXPECT_LT(result->max_difference, 1e-4);
    EXPECT_LT(result->cosine_difference, 1e-9);
    EXPECT_EQ(result->num_greedy, 12);
    EXPECT_EQ(result->num_greedy_equal, 12);
  }
}

// BF16 holds these weights exactly, so half the bytes make the same model.
TEST_P(ExpectedLogitsTest, AgreesAsCloselyWithWeightsInBFloat16) {
  Write(GetParam());
  for (const int num_threads : {1, 2}) {
    const auto result = Compare(num_threads, WeightStorage::kBF16);
    ASSERT_THAT(result, IsOk());
    EXPECT_LT(result->max_difference, 1e-4);
    EXPECT_LT(result->cosine_difference, 1e-9);
    EXPECT_EQ(result->num_greedy_equal, 12);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ExpectedLogitsTest,
                         ::testing::Values("llama", "llama_tied", "mixtral",
                                           "qwen3_moe"),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

TEST_F(ExpectedLogitsTest, CountsWhatDiffers) {
  Write("llama");
  float first;
  std::memcpy(&first, logits_.data(), sizeof(first));
  first += 0.5f;
  std::memcpy(logits_.data(), &first, sizeof(first));
  // The second of the second row's new tokens.
  const int32_t wrong = 39;
  std::memcpy(&greedy_[4 * (9 + 4)], &wrong, sizeof(wrong));
  WriteExpected();

  const auto result = Compare(1);

  ASSERT_THAT(result, IsOk());
  EXPECT_NEAR(result->max_difference, 0.5, 1e-3);
  EXPECT_EQ(result->num_greedy_equal, 6 + 1);
}

TEST_F(ExpectedLogitsTest, RefusesWhatDoesNotFit) {
  Write("llama");
  ids_.replace(0, 4, Int(40));
  WriteExpected();
  EXPECT_THAT(Compare(1), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("\"input_ids\" holds the id 40; "
                                             "want 0 to 39")));
}

}  // namespace
}  // namespace strata
