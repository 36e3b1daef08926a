// Checkpoints that several ranks write and others read.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/checkpoint/shards/expert_parts.h"
#include "core/checkpoint/weight_files.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/mesh_fixture.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

TrainConfig FourMicroBatches() {
  TrainConfig train = TinyTrain();
  train.set_accumulation(4);
  return train;
}

// Tiers of 4 and 8 experts.
ModelConfig ForFourRanks() {
  ModelConfig model = TinyHierarchical();
  model.mutable_moe()->mutable_hierarchical()->set_tier_experts(1, 8);
  return model;
}

// The bytes of a checkpoint's weights and moments by name, those of experts in
// a tensor each, however they lie on the disk.
std::map<std::string, std::string> TensorsOf(const std::string& checkpoint) {
  std::map<std::string, std::string> all;
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    const auto files = WeightFiles::Open(checkpoint, name);
    EXPECT_THAT(files, IsOk());
    if (!files.ok()) continue;
    for (const auto& [tensor, stored] : files->tensors()) {
      const TensorView& view = stored.view;
      const auto* const data = static_cast<const char*>(view.data);
      const bool experts = IsOfExperts(tensor, view.shape);
      const int64_t parts = experts ? view.dim(0) : 1;
      for (int64_t i = 0; i < parts; ++i) {
        const size_t size = view.num_bytes() / parts;
        all[experts ? ExpertPart(tensor, i) : tensor] =
            std::string(data + size * i, size);
      }
    }
  }
  return all;
}

class MeshCheckpointTest : public ::testing::Test {
 protected:
  MeshCheckpointTest() {
    runs_ = absl::StrCat(
        ::testing::TempDir(), "/mesh_",
        ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(runs_);
  }

  std::unique_ptr<Trainer> Make(const Mesh* mesh, bool shard_optimizer = false,
                                uint64_t seed = 1) const {
    TrainerOptions options;
    options.mesh = mesh;
    options.shard_optimizer = shard_optimizer;
    TrainConfig train = FourMicroBatches();
    train.set_seed(seed);
    auto trainer = Trainer::Create(ForFourRanks(), train, &corpus_, 1, options);
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  }
  // Steps, and a checkpoint after each.
  static void Save(Trainer& trainer, int steps, const std::string& runs) {
    for (int i = 0; i < steps; ++i) {
      ASSERT_THAT(trainer.Step(), IsOk());
      ASSERT_THAT(trainer.SaveCheckpoint(runs, nlohmann::json::object()),
                  IsOk());
    }
  }

  const Corpus corpus_ = TinyCorpus();
  std::string runs_;
};

// What a checkpoint holds does not depend on the mesh that wrote it, nor on the
// one that goes on from it.
TEST_F(MeshCheckpointTest, GoesFromMeshToMesh) {
  const std::string saved = absl::StrCat(runs_, "/step-000002");
  OnMesh({1, 2, 2}, [&](const Mesh& mesh) { Save(*Make(&mesh), 2, runs_); });
  const auto tensors = TensorsOf(saved);

  const auto alone = Make(nullptr);
  ASSERT_THAT(alone->Resume(saved), IsOk());
  ASSERT_THAT(alone->SaveCheckpoint(runs_ + "_one", nlohmann::json::object()),
              IsOk());
  EXPECT_TRUE(TensorsOf(runs_ + "_one/step-000002") == tensors);
  EXPECT_TRUE(
      std::filesystem::exists(runs_ + "_one/step-000002/model.safetensors"));
  const auto next = alone->Step();
  ASSERT_THAT(next, IsOk());

  // Onwards from both forms.
  for (const std::string& from : {saved, runs_ + "_one/step-000002"}) {
    const std::string to = runs_ + "_four";
    OnMesh({2, 2, 1}, [&](const Mesh& mesh) {
      const auto trainer = Make(&mesh, /*shard_optimizer=*/true);
      ASSERT_THAT(trainer->Resume(from), IsOk());
      ASSERT_THAT(trainer->SaveCheckpoint(to, nlohmann::json::object()),
                  IsOk());
      const auto metrics = trainer->Step();
      ASSERT_THAT(metrics, IsOk());
      // Forward alone: a loss near 5, of 24 bits.
      EXPECT_NEAR(metrics->loss, next->loss, 1e-5);
    });
    EXPECT_TRUE(TensorsOf(to + "/step-000002") == tensors);
  }
}

TEST_F(MeshCheckpointTest, StepsGoOnWhileItIsSaved) {
  OnMesh({2, 2, 1}, [&](const Mesh& mesh) {
    const auto trainer = Make(&mesh);
    ASSERT_THAT(trainer->Step(), IsOk());
    ASSERT_THAT(trainer->BeginCheckpoint(runs_, nlohmann::json::object()),
                IsOk());
    const auto second = trainer->Step();
    ASSERT_THAT(second, IsOk());
    const auto report = trainer->PollCheckpoint(/*wait=*/true);
    ASSERT_THAT(report, IsOk());
    ASSERT_THAT((*report)->status, IsOk());
    EXPECT_EQ((*report)->path, runs_ + "/step-000001");
    EXPECT_FALSE(trainer->is_saving());

    const auto resumed = Make(&mesh);
    ASSERT_THAT(resumed->Resume((*report)->path), IsOk());
    const auto again = resumed->Step();
    ASSERT_THAT(again, IsOk());
    EXPECT_EQ(again->loss, second->loss);
    EXPECT_EQ(again->grad_norm, second->grad_norm);
  });
}

// Each by one line, the same on all ranks, that names the file.
TEST_F(MeshCheckpointTest, AFileThatIsNotOfItIsNamed) {
  namespace fs = std::filesystem;
  OnMesh({1, 2, 1}, [&](const Mesh& mesh) {
    Save(*Make(&mesh), 2, runs_);
    Save(*Make(&mesh, /*shard_optimizer=*/false, /*seed=*/2), 2,
         runs_ + "_other");
  });
  const std::string shard = "model-00002-of-00002.safetensors";
  const std::string moments = "optimizer-00001-of-00002.safetensors";
  struct Case {
    std::string file;  // That is not what it should be,
    std::function<void(const std::string& path)> harm;
    std::string error;
  };
  const auto replace_by = [](const std::string& other) {
    return [other](const std::string& path) {
      fs::copy_file(other, path, fs::copy_options::overwrite_existing);
    };
  };
  const std::vector<Case> cases = {
      {shard, [](const std::string& path) { fs::remove(path); }, "is missing"},
      {shard, replace_by(runs_ + "/step-000001/" + shard),
       "is of step 1 of run"},
      {shard, replace_by(runs_ + "_other/step-000002/" + shard),
       "is of step 2 of run"},
      {moments,
       [](const std::string& path) {
         auto text = ReadFile(path);
         ASSERT_THAT(text, IsOk());
         text->back() ^= 1;
         ASSERT_THAT(WriteFileAtomically(path, *text), IsOk());
       },
       "has the SHA-256"},
      {"optimizer.safetensors.index.json",
       replace_by(runs_ + "/step-000001/optimizer.safetensors.index.json"),
       "is of step"},
      {"optimizer.safetensors.index.json",
       [](const std::string& path) { fs::remove(path); }, "holds no weights"},
  };
  for (const Case& harmed : cases) {
    SCOPED_TRACE(harmed.file + " " + harmed.error);
    const std::string folder = runs_ + "_harmed";
    fs::remove_all(folder);
    fs::copy(runs_ + "/step-000002", folder);
    harmed.harm(absl::StrCat(folder, "/", harmed.file));
    std::vector<std::string> errors(3);
    OnMesh({1, 2, 1}, [&](const Mesh& mesh) {
      errors[mesh.world().rank()] =
          std::string(Make(&mesh)->Resume(folder).message());
    });
    errors[2] = std::string(Make(nullptr)->Resume(folder).message());
    for (const std::string& error : errors) {
      EXPECT_THAT(error, HasSubstr(harmed.error));
      EXPECT_THAT(error, HasSubstr(harmed.file.substr(0, 9)));
    }
    EXPECT_EQ(errors[0], errors[1]);
  }
}

}  // namespace
}  // namespace strata
