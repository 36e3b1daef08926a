#include "core/runtime/state_store.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/kernel.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

class HostMemory : public Memory {
 public:
  explicit HostMemory(int64_t num_bytes) : bytes_(num_bytes) {}
  char* data() const override { return const_cast<char*>(bytes_.data()); }

 private:
  std::vector<char> bytes_;
};

// Kernels, if it had any, would have memory of their own: a twin of each block.
class TwinBackend : public Backend {
 public:
  absl::string_view name() const override { return "twin"; }
  bool shares_host_memory() const override { return false; }
  absl::StatusOr<std::unique_ptr<Memory>> Allocate(int64_t num_bytes) override {
    auto memory = std::make_unique<HostMemory>(num_bytes);
    twin_[memory->data()].resize(num_bytes);
    return memory;
  }
  absl::Status ToDevice(const TensorView& tensor) override {
    std::memcpy(Twin(tensor.data), tensor.data, tensor.num_bytes());
    return absl::OkStatus();
  }
  absl::Status ToHost(const TensorView& tensor) override {
    std::memcpy(tensor.data, Twin(tensor.data), tensor.num_bytes());
    return absl::OkStatus();
  }
  absl::Status Clear(void* data, int64_t num_bytes) override {
    std::memset(Twin(data), 0, num_bytes);
    return absl::OkStatus();
  }
  Kernel FindKernel(absl::string_view, DType) const override { return nullptr; }
  absl::Status Run(Kernel, const Node&, absl::Span<const TensorView>,
                   absl::Span<const TensorView>) override {
    return absl::UnimplementedError("no kernels");
  }

  char* Twin(void* data) { return twin_.at(static_cast<char*>(data)).data(); }

 private:
  std::map<char*, std::vector<char>> twin_;  // By the host's address.
};

class StateStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Value value;
    value.name = "x";
    value.role = Role::kState;
    value.type = {DType::kI32, {Static(2)}};
    Graph graph;
    graph.AddValue(value);
    ASSERT_THAT(state_.Declare(graph), IsOk());
  }

  absl::Span<int32_t> Host() { return state_.Get("x").span<int32_t>(); }
  int32_t* Twin() {
    return reinterpret_cast<int32_t*>(backend_.Twin(state_.Peek("x").data));
  }

  TwinBackend backend_;
  StateStore state_{backend_};
};

TEST_F(StateStoreTest, WhatTheHostWritesIsPublished) {
  Host()[0] = 3;
  EXPECT_EQ(Twin()[0], 0);
  ASSERT_THAT(state_.Publish(), IsOk());
  EXPECT_EQ(Twin()[0], 3);
  // What changed there is what the host sees next.
  Twin()[1] = 5;
  EXPECT_THAT(Host(), ElementsAre(3, 5));
}

TEST_F(StateStoreTest, WhatIsReadIsNotBroughtBack) {
  Twin()[0] = 3;
  ASSERT_THAT(state_.Publish(), IsOk());
  EXPECT_THAT(state_.Read("x").span<int32_t>(), ElementsAre(3, 0));
  Twin()[0] = 4;
  ASSERT_THAT(state_.Publish(), IsOk());
  EXPECT_EQ(Twin()[0], 4);
  EXPECT_THAT(state_.Read("x").span<int32_t>(), ElementsAre(4, 0));
}

// Whether the host has seen the tensor before, or has changed it in vain.
TEST_F(StateStoreTest, WhatIsClearedStaysSo) {
  Host()[0] = 3;
  ASSERT_THAT(state_.Publish(), IsOk());
  Host()[1] = 4;
  ASSERT_THAT(state_.Clear("x"), IsOk());
  EXPECT_EQ(Twin()[0], 0);
  EXPECT_THAT(Host(), ElementsAre(0, 0));
  Host()[1] = 4;
  ASSERT_THAT(state_.Clear("x"), IsOk());
  ASSERT_THAT(state_.Publish(), IsOk());
  EXPECT_EQ(Twin()[0], 0);
  EXPECT_EQ(Twin()[1], 0);
}

}  // namespace
}  // namespace strata
