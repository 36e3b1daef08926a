#include "core/base/manifest.h"

#include <cstdint>
#include <string>

#include "core/base/build_info.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;

TEST(ManifestTest, KnowsItsBuildItsMachineAndTheTime) {
  const Manifest manifest = NewManifest();

  EXPECT_EQ(manifest.version, std::string(Version()));
  EXPECT_EQ(manifest.commit, std::string(Commit()));
  EXPECT_THAT(manifest.machine.cpu_model, Not(IsEmpty()));
  EXPECT_GE(manifest.machine.num_cores, 1);
  EXPECT_GT(manifest.machine.memory_bytes, int64_t{1} << 20);
  EXPECT_THAT(manifest.date,
              MatchesRegex("20..-[01].-[0-3].T[0-2].:[0-5].:[0-6].Z"));
}

TEST(ManifestTest, WritesWhatItHolds) {
  Manifest manifest;
  manifest.version = "1.2.3";
  manifest.commit = "0123abcd";
  manifest.data_hash = "feed";
  manifest.seeds = {{"data", 7}, {"init", UINT64_MAX}};
  manifest.machine = {"A CPU", 2, 4096};
  manifest.date = "2025-01-31T23:59:59Z";

  EXPECT_EQ(ToJson(manifest), nlohmann::json::parse(R"({
    "version": "1.2.3",
    "commit": "0123abcd",
    "data_hash": "feed",
    "seeds": {"data": 7, "init": 18446744073709551615},
    "machine": {"cpu_model": "A CPU", "num_cores": 2, "memory_bytes": 4096},
    "date": "2025-01-31T23:59:59Z"
  })"));
}

TEST(ManifestTest, WritesNoSeedsAsAnEmptyObject) {
  EXPECT_EQ(ToJson(Manifest())["seeds"].dump(), "{}");
}

}  // namespace
}  // namespace strata
