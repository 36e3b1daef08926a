#include "core/base/sha256.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

// The test of the portable rounds sets STRATA_PORTABLE_SHA256.
#if defined(__x86_64__) && !defined(STRATA_PORTABLE_SHA256)
#define STRATA_X86_SHA256
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace strata {
namespace {

// The first 32 bits of the fractional parts of the cube roots of the first 64
// primes.
alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
    0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
    0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t Rotate(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

uint32_t LoadBigEndian(const unsigned char* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 |
         uint32_t{p[3]};
}

void AddBlockPortably(const unsigned char* block,
                      std::array<uint32_t, 8>* state) {
  uint32_t w[64];
  for (int t = 0; t < 16; ++t) w[t] = LoadBigEndian(block + 4 * t);
  for (int t = 16; t < 64; ++t) {
    const uint32_t s0 =
        Rotate(w[t - 15], 7) ^ Rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
    const uint32_t s1 =
        Rotate(w[t - 2], 17) ^ Rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = *state;
  for (int t = 0; t < 64; ++t) {
    const uint32_t s1 = Rotate(e, 6) ^ Rotate(e, 11) ^ Rotate(e, 25);
    const uint32_t choice = (e & f) ^ (~e & g);
    const uint32_t t1 = h + s1 + choice + kRound[t] + w[t];
    const uint32_t s0 = Rotate(a, 2) ^ Rotate(a, 13) ^ Rotate(a, 22);
    const uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + s0 + majority;
  }
  const uint32_t sum[8] = {a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i) (*state)[i] += sum[i];
}

#if defined(STRATA_X86_SHA256)

bool HasShaInstructions() {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kSha = 1u << 29;  // Leaf 7, EBX.
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & kSha) != 0 &&
         __builtin_cpu_supports("sse4.1");
}

// The processor's instructions do two rounds at a time and keep the state as
// (a, b, e, f) and (c, d, g, h), high lane first.
__attribute__((target("sha,sse4.1,ssse3"))) void AddBlocksWithInstructions(
    const unsigned char* blocks, size_t num_blocks,
    std::array<uint32_t, 8>* state) {
  const auto& s = *state;
  __m128i abef = _mm_set_epi32(s[0], s[1], s[4], s[5]);
  __m128i cdgh = _mm_set_epi32(s[2], s[3], s[6], s[7]);
  const __m128i big_endian =
      _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  for (; num_blocks > 0; --num_blocks, blocks += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];  // The last 16 words of the schedule.
    for (int i = 0; i < 4; ++i) {
      w[i] = _mm_shuffle_epi8(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks) + i),
          big_endian);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {  // Four rounds each.
      if (i >= 4) {
        // w[t] = w[t-16] + s0(w[t-15]) + w[t-7] + s1(w[t-2]) for four t.
        const __m128i w_minus_7 =
            _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4);
        w[i % 4] = _mm_sha256msg2_epu32(
            _mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]),
                          w_minus_7),
            w[(i + 3) % 4]);
      }
      const __m128i k =
          _mm_load_si128(reinterpret_cast<const __m128i*>(kRound) + i);
      const __m128i wk = _mm_add_epi32(w[i % 4], k);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_srli_si128(wk, 8));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  alignas(16) uint32_t fe_ba[4], hg_dc[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(fe_ba), abef);
  _mm_store_si128(reinterpret_cast<__m128i*>(hg_dc), cdgh);
  *state = {fe_ba[3], fe_ba[2], hg_dc[3], hg_dc[2],
            fe_ba[1], fe_ba[0], hg_dc[1], hg_dc[0]};
}

#endif  // defined(STRATA_X86_SHA256)

}  // namespace

void Sha256::AddBlocks(const unsigned char* blocks, size_t num_blocks) {
#if defined(STRATA_X86_SHA256)
  static const bool has_instructions = HasShaInstructions();
  if (has_instructions) {
    AddBlocksWithInstructions(blocks, num_blocks, &state_);
    return;
  }
#endif
  for (; num_blocks > 0; --num_blocks, blocks += kBlockBytes) {
    AddBlockPortably(blocks, &state_);
  }
}

void Sha256::Update(absl::string_view bytes) {
  const size_t num_pending = num_bytes_ % kBlockBytes;
  num_bytes_ += bytes.size();
  if (num_pending > 0) {
    const size_t taken = std::min(bytes.size(), kBlockBytes - num_pending);
    std::copy_n(bytes.data(), taken, pending_ + num_pending);
    bytes.remove_prefix(taken);
    if (num_pending + taken < kBlockBytes) return;
    AddBlocks(pending_, 1);
  }
  const size_t num_blocks = bytes.size() / kBlockBytes;
  AddBlocks(reinterpret_cast<const unsigned char*>(bytes.data()), num_blocks);
  bytes.remove_prefix(num_blocks * kBlockBytes);
  std::copy_n(bytes.data(), bytes.size(), pending_);
}

std::string Sha256::HexDigest() const {
  // The end of a message: a one, zeros to the end of a block less 8 bytes, and
  // the length in bits.
  Sha256 padded = *this;
  std::string end("\x80");
  end.resize(1 + (119 - num_bytes_ % kBlockBytes) % kBlockBytes);
  for (int shift = 56; shift >= 0; shift -= 8) {
    end.push_back(static_cast<char>(num_bytes_ * 8 >> shift));
  }
  padded.Update(end);

  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const uint32_t word : padded.state_) {
    for (int shift = 28; shift >= 0; shift -= 4) {
      hex.push_back(kDigits[word >> shift & 15]);
    }
  }
  return hex;
}

std::string Sha256Hex(absl::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.HexDigest();
}

}  // namespace strata
