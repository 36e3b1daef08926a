#include "training/checkpoint/checkpoint_saver.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/files.h"
#include "core/base/staged_directory.h"
#include "core/checkpoint/weight_files.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/parallel/communicator.h"
#include "core/parallel/thread_communicator.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/checkpoint/state_parts.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int kRanks = 3;
constexpr int64_t kExperts = 6;
const char* const kNorm = "norm";                 // [4], all ranks'
const char* const kExpertWeight = "a.experts.w";  // [6, 2, 2], shared out
const char* const kMoment = "adam.m.norm";        // [4], rank 1's
const char* const kMoments = "adam.m.a.experts.w";

void AddState(Graph& graph, const std::string& name, Shape shape) {
  Value value;
  value.name = name;
  value.role = Role::kState;
  value.type.dtype = DType::kF32;
  for (const int64_t extent : shape) {
    value.type.dims.push_back(Static(extent));
  }
  graph.AddValue(value);
}

// The states of a rank that holds so many experts.
Graph States(int64_t experts, bool has_moment) {
  Graph graph;
  AddState(graph, kNorm, {4});
  AddState(graph, kExpertWeight, {experts, 2, 2});
  if (has_moment) AddState(graph, kMoment, {4});
  AddState(graph, kMoments, {experts, 2, 2});
  return graph;
}

// Each element of the whole is its own number, by the state's place above.
float Element(int state, int64_t i) { return 1000.0F * state + i; }

class Rank {
 public:
  Rank(int rank, int ranks) : backend_(1, AllCpuKernels()), store_(backend_) {
    const int64_t held = kExperts / ranks;
    EXPECT_THAT(store_.Declare(States(held, rank == 1 || ranks == 1)), IsOk());
    if (ranks > 1) {
      shards_.push_back(
          {kExpertWeight, rank * held, (rank + 1) * held, kExperts});
    }
  }

  void Fill() {
    for (int s = 0; s < 4; ++s) {
      const std::string name = Names()[s];
      if (!store_.Has(name)) continue;
      const int64_t begin =
          s % 2 == 1 && !shards_.empty() ? shards_[0].begin * 4 : 0;
      int64_t i = begin;
      for (float& x : store_.Get(name).span<float>()) x = Element(s, i++);
    }
  }
  void Clear() {
    for (const std::string& name : store_.names()) {
      for (float& x : store_.Get(name).span<float>()) x = -1;
    }
  }
  std::vector<float> Values(const std::string& name) const {
    const auto values = store_.Get(name).span<float>();
    return {values.begin(), values.end()};
  }
  static std::vector<std::string> Names() {
    return {kNorm, kExpertWeight, kMoment, kMoments};
  }

  const StateStore& store() const { return store_; }
  StateStore& store() { return store_; }
  const std::vector<Shard>& shards() const { return shards_; }

 private:
  CpuBackend backend_;
  StateStore store_;
  std::vector<Shard> shards_;
};

class CheckpointSaverTest : public ::testing::Test {
 protected:
  CheckpointSaverTest() {
    dir_ = absl::StrCat(
        ::testing::TempDir(), "/saver_",
        ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(dir_);
  }

  std::string Path(int step) const {
    return absl::StrCat(dir_, "/step-00000", step);
  }
  CheckpointContents Contents(int step) const {
    CheckpointContents contents;
    contents.path = Path(step);
    contents.of = absl::StrCat("step ", step, " of run 1a");
    contents.whole = &whole_;
    contents.model = {kNorm, kExpertWeight};
    contents.optimizer = {kMoment, kMoments};
    contents.texts = {{"trainer.json", "{}"}};
    return contents;
  }

  // Calls `body` as each rank.
  void OnRanks(const std::function<void(Communicator& world, Rank& rank,
                                        CheckpointSaver& saver)>& body) const {
    const auto world = ThreadCommunicators(kRanks, absl::Seconds(30));
    std::vector<std::thread> threads;
    for (int r = 0; r < kRanks; ++r) {
      threads.emplace_back([&, r] {
        Rank rank(r, kRanks);
        rank.Fill();
        CheckpointSaver saver(*world[r]);
        body(*world[r], rank, saver);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  // That what was filled in is in the checkpoint, read as one rank.
  void ExpectWhole(int step) const {
    Rank one(0, 1);
    for (const auto& [file, names] :
         {std::pair(kWeightsFile, Contents(step).model),
          std::pair(kOptimizerFile, Contents(step).optimizer)}) {
      const auto files = WeightFiles::Open(Path(step), file);
      ASSERT_THAT(files, IsOk());
      ASSERT_THAT(ReadParts(*files, whole_, names, {}, one.store()), IsOk());
    }
    for (int s = 0; s < 4; ++s) {
      const std::vector<float> got = one.Values(Rank::Names()[s]);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i], Element(s, static_cast<int64_t>(i)));
      }
    }
  }

  std::vector<std::string> Folders() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  const Graph whole_ = States(kExperts, /*has_moment=*/true);
  std::string dir_;
};

TEST_F(CheckpointSaverTest, EachRankWritesItsPartAndAnyReadsIt) {
  OnRanks([&](Communicator& world, Rank& rank, CheckpointSaver& saver) {
    ASSERT_THAT(saver.Begin(Contents(1), rank.store(), rank.shards()), IsOk());
    const auto report = saver.Poll(/*wait=*/true);
    ASSERT_THAT(report, IsOk());
    ASSERT_TRUE(report->has_value());
    EXPECT_THAT((*report)->status, IsOk());
    EXPECT_FALSE(saver.is_saving());
    // Two experts of 16 bytes in weights and moments; a norm is another 16.
    EXPECT_GE((*report)->snapshot_bytes, 64);
    EXPECT_LE((*report)->snapshot_bytes, 80);
  });

  ExpectWhole(1);
  EXPECT_THAT(Folders(), ElementsAre("step-000001"));
  // As ranks of other shares.
  const auto files = WeightFiles::Open(Path(1));
  ASSERT_THAT(files, IsOk());
  EXPECT_THAT(files->paths(), SizeIs(kRanks));
  Rank second(1, 2);
  ASSERT_THAT(ReadParts(*files, whole_, Contents(1).model, second.shards(),
                        second.store()),
              IsOk());
  EXPECT_EQ(second.Values(kExpertWeight)[0], Element(1, 12));
  EXPECT_EQ(second.Values(kExpertWeight)[11], Element(1, 23));
}

TEST_F(CheckpointSaverTest, WhatChangesMeanwhileIsNotSaved) {
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  OnRanks([&](Communicator& world, Rank& rank, CheckpointSaver& saver) {
    saver.set_before_write_for_testing([released] {
      released.wait();
      return absl::OkStatus();
    });
    ASSERT_THAT(saver.Begin(Contents(1), rank.store(), rank.shards()), IsOk());
    rank.Clear();
    for (int i = 0; i < 3; ++i) {
      const auto report = saver.Poll(/*wait=*/false);
      ASSERT_THAT(report, IsOk());
      EXPECT_FALSE(report->has_value());
      EXPECT_TRUE(saver.is_saving());
    }
    ASSERT_THAT(world.Barrier(), IsOk());
    // Whoever looks, or tidies up, meanwhile finds and leaves it in the making.
    if (world.rank() == 0) {
      EXPECT_FALSE(fs::exists(Path(1)));
      ASSERT_THAT(TidyStaging(dir_), IsOk());
      EXPECT_THAT(Folders(), SizeIs(1));
      release.set_value();
    }
    const auto report = saver.Poll(/*wait=*/true);
    ASSERT_THAT(report, IsOk());
    EXPECT_THAT((*report)->status, IsOk());
    EXPECT_LE((*report)->seconds_stopped, (*report)->seconds);
  });
  ExpectWhole(1);
}

TEST_F(CheckpointSaverTest, AFailureOfOneIsHeardByAllAndHarmsNoOther) {
  OnRanks([&](Communicator& world, Rank& rank, CheckpointSaver& saver) {
    const auto save = [&](int step) {
      EXPECT_THAT(saver.Begin(Contents(step), rank.store(), rank.shards()),
                  IsOk());
      const auto report = saver.Poll(/*wait=*/true);
      EXPECT_THAT(report, IsOk());
      return (*report)->status;
    };
    EXPECT_THAT(save(1), IsOk());
    if (world.rank() == 2) {
      saver.set_before_write_for_testing(
          [] { return absl::ResourceExhaustedError("the disk is full"); });
    }
    EXPECT_EQ(save(2),
              absl::ResourceExhaustedError("rank 2: the disk is full"));
    saver.set_before_write_for_testing(nullptr);
    EXPECT_THAT(save(3), IsOk());
  });
  ExpectWhole(1);
  ExpectWhole(3);
  EXPECT_THAT(Folders(), SizeIs(2));
}

TEST_F(CheckpointSaverTest, AFolderThatCannotBeMadeIsNoEndEither) {
  ASSERT_THAT(MakeFolders(dir_), IsOk());
  ASSERT_THAT(WriteFileAtomically(Path(1), "in the way"), IsOk());
  OnRanks([&](Communicator& world, Rank& rank, CheckpointSaver& saver) {
    ASSERT_THAT(saver.Begin(Contents(1), rank.store(), rank.shards()), IsOk());
    const auto report = saver.Poll(/*wait=*/false);
    ASSERT_THAT(report, IsOk());
    ASSERT_TRUE(report->has_value());
    EXPECT_THAT(
        (*report)->status,
        StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(Path(1))));
  });
}

TEST_F(CheckpointSaverTest, GivesUpOnADiskThatHangs) {
  static auto* const release = new std::promise<void>();
  const std::shared_future<void> released = release->get_future().share();
  OnRanks([&](Communicator& world, Rank& rank, CheckpointSaver& saver) {
    saver.set_patience(absl::Milliseconds(500));
    if (world.rank() == 1) {
      saver.set_before_write_for_testing([released] {
        released.wait();
        return absl::OkStatus();
      });
    }
    ASSERT_THAT(saver.Begin(Contents(1), rank.store(), rank.shards()), IsOk());
    EXPECT_THAT(saver.Poll(/*wait=*/true),
                StatusIs(absl::StatusCode::kDeadlineExceeded,
                         HasSubstr("has not got on for 500ms")));
    EXPECT_FALSE(saver.is_saving());
  });
  release->set_value();
  EXPECT_FALSE(fs::exists(Path(1)));
}

}  // namespace
}  // namespace strata
