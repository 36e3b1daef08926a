#include "core/base/sha256.h"

#include <algorithm>
#include <string>

#include "absl/strings/string_view.h"
#include "core/base/random.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// The examples of FIPS 180-4 and of NIST's example values.
TEST(Sha256Test, GivesThePublishedDigests) {
  EXPECT_EQ(Sha256Hex(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// The digest of the digests of 'x' repeated 0 to 300 times: every padding. As
// sha256sum computes it.
TEST(Sha256Test, PadsEveryLength) {
  Sha256 all;
  for (int size = 0; size <= 300; ++size) {
    all.Update(Sha256Hex(std::string(size, 'x')));
  }
  EXPECT_EQ(all.HexDigest(),
            "4f1214e9ef2dcfefe099f05aaaceccdad8549cc50a52723cdba372bb89323705");
}

TEST(Sha256Test, DoesNotDependOnWhereTheMessageIsCut) {
  Random random(/*seed=*/1, /*stream=*/0);
  std::string message(5000, '\0');
  for (char& c : message) c = static_cast<char>(random.Bits());
  const std::string want = Sha256Hex(message);
  for (int round = 0; round < 200; ++round) {
    Sha256 hash;
    absl::string_view rest = message;
    while (!rest.empty()) {
      const size_t part =
          std::min<size_t>(rest.size(), random.UniformInt(round + 2));
      hash.Update(rest.substr(0, part));
      rest.remove_prefix(part);
      hash.HexDigest();  // Changes nothing.
    }
    ASSERT_EQ(hash.HexDigest(), want);
  }
}

}  // namespace
}  // namespace strata
