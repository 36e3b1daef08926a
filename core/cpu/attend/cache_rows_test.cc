#include "core/cpu/attend/cache_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "core/base/random.h"
#include "core/quant/cache_format.h"
#include "core/quant/log_levels.h"
#include "core/testing/highway_targets.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace strata {
namespace {

// Calls `body` with every instruction set that this processor has.
void ForEachTarget(const std::function<void()>& body) {
  strata::ForEachTarget({HWY_AVX3, HWY_AVX2, HWY_SSE4, HWY_SSSE3}, body);
}

// `rows` random heads, with `gap` bytes between them.
struct Heads {
  CacheFormat format;
  int64_t columns, stride;
  std::vector<uint8_t> packed;  // Ends with the last head.

  Heads(CacheFormat format, int64_t rows, int64_t columns, int64_t gap)
      : format(format),
        columns(columns),
        stride(CacheHeadBytes(format, columns) + gap),
        packed(rows * stride - gap) {
    Random random(/*seed=*/rows, /*stream=*/columns);
    std::vector<float> x(columns);
    for (int64_t i = 0; i < rows; ++i) {
      for (float& v : x) v = static_cast<float>(random.Normal());
      PackCacheHead(format, false, x.data(), columns, &packed[i * stride]);
    }
  }
};

TEST(CacheRowsTest, WidensExactly) {
  ForEachTarget([] {
    for (const CacheFormat format :
         {CacheFormat::kBF16, CacheFormat::kInt8, CacheFormat::kInt4}) {
      for (const int64_t columns : {1, 31, 32, 33, 64, 576}) {
        for (const int64_t rows : {1, 3}) {
          const Heads heads(format, rows, columns, /*gap=*/7);
          const int64_t groups = CacheGroups(columns);
          const int64_t padded = groups * kCacheGroup;
          std::vector<float> out(rows * padded);
          CacheRows::Get().widen(format, heads.packed.data(), heads.stride,
                                 rows, groups, out.data());
          for (int64_t i = 0; i < rows; ++i) {
            std::vector<float> want(columns);
            UnpackCacheHead(format, &heads.packed[i * heads.stride], columns,
                            want.data());
            EXPECT_EQ(std::vector<float>(out.begin() + i * padded,
                                         out.begin() + i * padded + columns),
                      want)
                << ToText(format) << " " << columns;
          }
        }
      }
    }
  });
}

// The code of a column of a head of one group.
int CodeAt(CacheFormat format, const uint8_t* head, int64_t c) {
  if (format == CacheFormat::kInt8) return static_cast<int8_t>(head[c]);
  return (c < 16 ? head[c] & 15 : head[c - 16] >> 4) - 8;
}

TEST(CacheRowsTest, FindsTheLevelsOfTheDefinition) {
  ForEachTarget([] {
    for (const int bits : {4, 5, 6}) {
      const LogLevels levels(bits);
      Random random(/*seed=*/bits, /*stream=*/0);
      constexpr float kLargest = 0.37f;
      for (const int64_t n : {1, 15, 16, 17, 1000}) {
        std::vector<float> p((n + 15) / 16 * 16);
        std::vector<uint8_t> level(p.size());
        for (float& x : p) {
          x = kLargest * static_cast<float>(std::exp2(-20 * random.Uniform()));
        }
        p[0] = kLargest;
        if (n > 2) p[1] = 0;
        CacheRows::Get().find_levels(levels, p.data(), kLargest, n,
                                     level.data());
        for (int64_t i = 0; i < n; ++i) {
          EXPECT_EQ(level[i], levels.CodeOf(p[i] / kLargest)) << p[i];
        }
      }
    }
  });
}

TEST(CacheRowsTest, AddsUpIntegersByLevel) {
  ForEachTarget([] {
    for (const CacheFormat format : {CacheFormat::kInt8, CacheFormat::kInt4}) {
      for (const int steps : {1, 4}) {
        const int64_t rows = 70;
        const int num_levels = 16 * steps;
        const Heads heads(format, rows, 32, /*gap=*/5);
        std::vector<uint8_t> level(rows), exponent(rows);
        for (int64_t i = 0; i < rows; ++i) {
          level[i] = i % 7 == 3 ? LogLevels::kDropped : i * i % num_levels;
          exponent[i] = static_cast<uint8_t>(120 - i % 5);
        }
        const int64_t n = (num_levels + 1) * 32;
        std::vector<int16_t> sum(n);
        std::vector<int32_t> total(n), want(n);
        LevelSums args;
        args.format = format;
        args.group = heads.packed.data();
        args.stride = heads.stride;
        args.rows = rows;
        args.level = level.data();
        args.exponent = exponent.data();
        args.top = 120;
        args.steps = steps;
        args.num_levels = num_levels;
        args.sum = sum.data();

        CacheRows::Get().add_codes(args);
        CacheRows::Get().flush(n, sum.data(), total.data());

        for (int64_t i = 0; i < rows; ++i) {
          const int64_t at = std::min<int64_t>(
              num_levels, level[i] + steps * (120 - exponent[i]));
          for (int64_t c = 0; c < 32; ++c) {
            want[at * 32 + c] +=
                CodeAt(format, &heads.packed[i * heads.stride], c);
          }
        }
        EXPECT_EQ(total, want);
        EXPECT_EQ(sum, std::vector<int16_t>(n));
      }
    }
  });
}

TEST(CacheRowsTest, HoldsAsManyOfTheLargestIntegersAsItSays) {
  ForEachTarget([] {
    for (const int value : {127, -127}) {
      std::vector<uint8_t> group(34);
      std::memset(group.data(), value, 32);
      const std::vector<uint8_t> level(kMaxShortSums, 2);
      const std::vector<uint8_t> exponent(kMaxShortSums, 100);
      std::vector<int16_t> sum(17 * 32);
      std::vector<int32_t> total(17 * 32);
      LevelSums args;
      args.group = group.data();
      args.rows = kMaxShortSums;
      args.level = level.data();
      args.exponent = exponent.data();
      args.top = 100;
      args.sum = sum.data();
      for (int i = 0; i < 3; ++i) {
        CacheRows::Get().add_codes(args);
        CacheRows::Get().flush(17 * 32, sum.data(), total.data());
      }
      for (int64_t i = 0; i < 17 * 32; ++i) {
        EXPECT_EQ(total[i], i / 32 == 2 ? 3 * kMaxShortSums * value : 0);
      }
    }
  });
}

}  // namespace
}  // namespace strata
