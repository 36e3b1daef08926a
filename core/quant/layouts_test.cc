// The layouts of files and of kernels: each holds what was put in.

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/base/random.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/quant/packed_rows.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/stored_groups.h"
#include "core/tensor/bfloat16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

std::vector<QuantFormat> AllFormats() {
  std::vector<QuantFormat> formats;
  for (const int bits : {2, 4, 8}) {
    for (const int64_t group : {32, 64, 128, 0}) {
      formats.push_back({bits, group, true});
      formats.push_back({bits, group, false});
    }
  }
  return formats;
}

QuantizedMatrix RandomMatrix(const QuantFormat& format, int64_t rows,
                             int64_t columns) {
  Random random(/*seed=*/rows, /*stream=*/columns);
  std::vector<float> w(rows * columns);
  for (float& x : w) x = static_cast<float>(random.Normal());
  return RoundToNearest(w.data(), rows, columns, format);
}

// What compressed-tensors writes: codes of a word from its lowest bits on.
TEST(StoredGroupsTest, PacksTheFirstCodeLowest) {
  QuantizedMatrix m({4, 0, false}, 2, 9);
  for (int i = 0; i < 9; ++i) m.code[i] = i + 1, m.code[9 + i] = 15;
  m.zero = {3, 12};
  EXPECT_THAT(StoredCodes(m),
              ElementsAre(0x87654321u, 0x9u, 0xFFFFFFFFu, 0xFu));
  EXPECT_THAT(StoredZeros(m), ElementsAre(0xC3u));
}

TEST(StoredGroupsTest, PacksSixteenCodesOfTwoBitsAWord) {
  QuantizedMatrix m({2, 0, false}, 1, 18);
  for (int i = 0; i < 18; ++i) m.code[i] = i % 4;
  m.zero = {2};
  // 0, 1, 2, 3 from the lowest bits on are 11 10 01 00.
  EXPECT_THAT(StoredCodes(m), ElementsAre(0xE4E4E4E4u, 0x4u));
  EXPECT_THAT(StoredZeros(m), ElementsAre(0x2u));
}

TEST(StoredGroupsTest, GivesBackWhatWasStored) {
  for (const QuantFormat& format : AllFormats()) {
    for (const int64_t rows : {1, 7, 8, 9}) {
      SCOPED_TRACE(ToText(format));
      const QuantizedMatrix m = RandomMatrix(format, rows, 384);
      const std::vector<uint32_t> codes = StoredCodes(m);
      const std::vector<uint32_t> zeros = StoredZeros(m);
      const StoredGroups stored = {format, 384, codes.data(), m.scale.data(),
                                   format.symmetric ? nullptr : zeros.data()};
      std::vector<float> want(384), got(384);
      for (int64_t row = 0; row < rows; ++row) {
        m.DequantizeRow(row, want.data());
        ReadRow(stored, row, got.data());
        EXPECT_EQ(got, want);
      }
    }
  }
}

// Rows in `own` lose nothing by being packed in `packed`.
void ExpectKept(const QuantFormat& own, const QuantFormat& packed,
                int64_t columns) {
  SCOPED_TRACE(testing::Message() << ToText(own) << " in " << ToText(packed)
                                  << ", " << columns << " columns");
  const QuantizedMatrix m = RandomMatrix(own, 3, columns);
  const std::vector<uint32_t> codes = StoredCodes(m);
  const std::vector<uint32_t> zeros = StoredZeros(m);
  const StoredGroups stored = {own, columns, codes.data(), m.scale.data(),
                               zeros.data()};
  std::vector<uint8_t> row(PackedRow(packed, columns).bytes);
  std::vector<float> want(columns), got(columns);
  for (int64_t i = 0; i < 3; ++i) {
    m.DequantizeRow(i, want.data());
    PackStoredRow(stored, i, packed, row.data());
    UnpackRow(packed, columns, row.data(), got.data());
    EXPECT_EQ(got, want);
  }
}

// Both sides of what INT4 and INT2 pack together, and of no group at all.
TEST(PackedRowsTest, GiveBackWhatWasPacked) {
  for (const QuantFormat& format : AllFormats()) {
    for (const int64_t columns :
         {1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 128, 384}) {
      if (format.group > 0 && columns % format.group != 0) continue;
      ExpectKept(format, format, columns);
    }
  }
}

TEST(PackedRowsTest, KeepTheirNumbersInTheFormatForAll) {
  for (const QuantFormat& a : AllFormats()) {
    for (const QuantFormat& b : AllFormats()) {
      const QuantFormat all = FormatForAll({a, b});
      EXPECT_EQ(all.bits, std::max({a.bits, b.bits, 4}));
      EXPECT_EQ(all.symmetric, a.symmetric && b.symmetric);
      for (const int64_t columns : {17, 128, 384}) {
        if (all.group > 0 && columns % all.group != 0) continue;
        ExpectKept(a, all, columns);
        ExpectKept(b, all, columns);
      }
    }
  }
}

TEST(PackedRowsTest, SayTheirFormatByTheirLength) {
  for (int64_t columns = 1; columns <= 4096; ++columns) {
    std::map<int64_t, QuantFormat> format_of;
    for (const QuantFormat& format : AllFormats()) {
      if (format.group > 0 && columns % format.group != 0) continue;
      const int64_t bytes = PackedRow(format, columns).bytes;
      const auto [it, is_new] = format_of.emplace(bytes, format);
      // The same length only where the groups are the same.
      if (!is_new) {
        EXPECT_EQ(NumGroups(it->second, columns), NumGroups(format, columns))
            << columns;
        EXPECT_EQ(it->second.symmetric, format.symmetric) << columns;
        EXPECT_EQ(it->second.bits, format.bits) << columns;
      }
    }
    for (const auto& [bytes, format] : format_of) {
      EXPECT_EQ(FormatOfRow(bytes, columns), format) << columns;
    }
    EXPECT_FALSE(FormatOfRow(columns / 4, columns).has_value());
  }
}

TEST(MixedRowsTest, ALetterSaysTheWholeFormat) {
  std::string letters;
  for (const bool symmetric : {true, false}) {
    for (const int64_t group : {0, 32, 64, 128}) {
      for (const int bits : {2, 4, 8}) {
        const QuantFormat format = {bits, group, symmetric};
        letters += LetterOf(format);
        EXPECT_EQ(*FormatOfLetter(letters.back()), format);
      }
    }
  }
  // Those of 2 bits came later.
  EXPECT_EQ(letters, "QABRCDSEFTGHUIJVKLWMNXOP");
  EXPECT_FALSE(FormatOfLetter('Y').has_value());
  EXPECT_FALSE(FormatsOfLetters(std::string("A\0", 2)).has_value());
}

}  // namespace
}  // namespace strata
