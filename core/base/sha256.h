// SHA-256 (FIPS 180-4), to tell data and weights apart in manifests.
//
//   Sha256 hash;
//   hash.Update(first_part);
//   hash.Update(second_part);
//   manifest.data_hash = hash.HexDigest();

#ifndef CORE_BASE_SHA256_H_
#define CORE_BASE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace strata {

class Sha256 {
 public:
  // Appends to the message. Where it is cut does not matter.
  void Update(absl::string_view bytes);

  // The digest of the message so far: 64 lower-case hexadecimal digits.
  std::string HexDigest() const;

 private:
  static constexpr int kBlockBytes = 64;

  void AddBlocks(const unsigned char* blocks, size_t num_blocks);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372,
                                    0xa54ff53a, 0x510e527f, 0x9b05688c,
                                    0x1f83d9ab, 0x5be0cd19};
  unsigned char pending_[kBlockBytes];  // The first num_bytes_ % 64 are set.
  uint64_t num_bytes_ = 0;
};

// The digest of one message.
std::string Sha256Hex(absl::string_view bytes);

}  // namespace strata

#endif  // CORE_BASE_SHA256_H_
