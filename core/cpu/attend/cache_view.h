// Where the keys of each token of a step lie in a cache, and which tokens go
// together.
//
//   in blocks        key i of sequence s is row  table[s][i / size] * size +
//                    i % size
//   in one piece     key i of a token is row  first_row + i

#ifndef CORE_CPU_ATTEND_CACHE_VIEW_H_
#define CORE_CPU_ATTEND_CACHE_VIEW_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/tensor/tensor.h"

namespace strata {

// Tokens of a run: their rows share the loads of keys and values.
inline constexpr int64_t kRunTokens = 16;

// Tokens [token, token + rows) of one sequence, one after another.
struct TokenRun {
  int64_t token;
  int64_t rows;
};

struct CacheView {
  // table I32 [rows, max_blocks] or without data; where I32 [t] a row of it,
  // or the cache's row of the sequence's first token; position I32 [t].
  // Without a table blocks are of any size, here `block_size`.
  CacheView(const TensorView& block_table, const TensorView& where,
            const TensorView& position, int64_t block_size)
      : block_size(block_size),
        where(where.as<int32_t>()),
        position(position.as<int32_t>()) {
    if (block_table.data == nullptr) return;
    table = block_table.as<int32_t>();
    rows = block_table.dim(0);
    max_blocks = block_table.dim(1);
  }

  // That every token's keys are in a cache of `slots` rows.
  absl::Status Check(int64_t token, int64_t slots) const {
    const int64_t s = where[token], last = position[token];
    if (table == nullptr) {
      if (s >= 0 && last >= 0 && s + last < slots) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", token, " is at position ", last, " from cache row ", s,
          "; want both 0 or more, and rows below ", slots));
    }
    if (s < 0 || s >= rows || last < 0 || last >= max_blocks * block_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", token, " is at position ", last, " of sequence ", s,
          "; want 0 to ", max_blocks * block_size - 1, " of 0 to ", rows - 1));
    }
    for (int64_t i = 0; i <= last / block_size; ++i) {
      const int32_t block = table[s * max_blocks + i];
      if (block >= 0 && (block + 1) * block_size <= slots) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("block ", i, " of sequence ", s, " is ", block,
                       "; want 0 to ", slots / block_size - 1));
    }
    return absl::OkStatus();
  }

  // The row of the cache of key `i`, of a sequence that is at `s`.
  int64_t Slot(int64_t s, int64_t i) const {
    if (table == nullptr) return s + i;
    return table[s * max_blocks + i / block_size] * block_size + i % block_size;
  }

  // Cuts t tokens into runs of at most kRunTokens; returns how many.
  int64_t FindRuns(int64_t t, TokenRun* runs) const {
    int64_t count = 0;
    for (int64_t i = 0; i < t; ++i) {
      const bool goes_on = count > 0 && runs[count - 1].rows < kRunTokens &&
                           where[i] == where[i - 1] &&
                           position[i] == position[i - 1] + 1;
      if (goes_on) {
        ++runs[count - 1].rows;
      } else {
        runs[count++] = {i, 1};
      }
    }
    return count;
  }

  const int32_t* table = nullptr;
  int64_t rows = 0, max_blocks = 0, block_size;
  const int32_t* where;
  const int32_t* position;
};

}  // namespace strata

#endif  // CORE_CPU_ATTEND_CACHE_VIEW_H_
