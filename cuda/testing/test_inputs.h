// Inputs of kernel tests: ragged rows, random integers.

#ifndef CUDA_TESTING_TEST_INPUTS_H_
#define CUDA_TESTING_TEST_INPUTS_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/tensor/tensor.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/both_backends.h"
#include "gtest/gtest.h"

namespace strata::gpu {

// A fixture that skips where there is no GPU.
template <typename Param>
class DeviceTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no GPU";
  }
};

// `rows` rows of a bound with a few more, counted by an input "n".
inline Dim RaggedRows(GraphBuilder& b, int64_t rows) {
  return Ragged(rows + 5, b.Input("n", DType::kI32, {}));
}

// The same where a bound leaves kernels for up to eight tokens to few of them:
// four to eight rows are exactly as many.
inline Dim Tokens(GraphBuilder& b, int64_t rows) {
  return rows > 3 && rows <= 8 ? Static(rows) : RaggedRows(b, rows);
}

// Fills "n", and what `more` fills.
inline FillFn WithRows(int64_t rows, FillFn more = nullptr) {
  return [=](const std::string& name, const TensorView& view) {
    if (name == "n") return FillInts(view, {static_cast<int32_t>(rows)});
    return more && more(name, view);
  };
}

inline ValueId FloatInput(GraphBuilder& b, const std::string& name, Dim rows,
                          int64_t columns) {
  return b.Input(name, DType::kF32, {rows, Static(columns)});
}

inline std::vector<int32_t> RandomInts(int64_t n, int low, int high, int seed) {
  std::mt19937 rng(seed);
  std::uniform_int_distribution<int32_t> uniform(low, high);
  std::vector<int32_t> values(n);
  for (int32_t& x : values) x = uniform(rng);
  return values;
}

// In [0, 1], in steps of 1/64 so that there are ties.
inline void FillCoarse(const TensorView& view, int seed) {
  const std::vector<int32_t> steps =
      RandomInts(view.num_elements(), 0, 64, seed);
  float* const to = view.as<float>();
  for (size_t i = 0; i < steps.size(); ++i) to[i] = steps[i] / 64.f;
}

inline void FillMask(const TensorView& view, int seed) {
  const std::vector<int32_t> bits = RandomInts(view.num_elements(), 0, 1, seed);
  uint8_t* const to = view.as<uint8_t>();
  for (size_t i = 0; i < bits.size(); ++i)
    to[i] = static_cast<uint8_t>(bits[i]);
}

// "3_rows33_columns64"
template <typename Param>
std::string RowsColumnsName(const testing::TestParamInfo<Param>& info) {
  return absl::StrCat(info.index, "_rows", info.param.rows, "_columns",
                      info.param.columns);
}
struct RowsColumns {
  int64_t rows, columns;
};

}  // namespace strata::gpu

#endif  // CUDA_TESTING_TEST_INPUTS_H_
