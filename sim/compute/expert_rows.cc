#include "sim/compute/expert_rows.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "sim/compute/kernel_shape.h"

namespace strata {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

void CheckShape(const LoadShape& shape) {
  CHECK(shape.tokens > 0 && shape.top_k > 0 && shape.expert_parallel > 0 &&
        shape.top_k <= shape.experts &&
        shape.experts % shape.expert_parallel == 0)
      << shape.tokens << " tokens, top " << shape.top_k << " of "
      << shape.experts << " experts on " << shape.expert_parallel << " ranks";
}

// A draw of density x^-alpha between `least` and `most`, from u in [0, 1).
double PowerLaw(double u, double alpha, double least, double most) {
  if (std::abs(alpha - 1) < 1e-9) return least * std::pow(most / least, u);
  const double e = 1 - alpha;
  return std::pow(
      (std::pow(most, e) - std::pow(least, e)) * u + std::pow(least, e), 1 / e);
}

// Adds `missing` rows, or takes -missing away, one of each rank in turn: to its
// expert with the fewest, from its expert with the most.
void Settle(int64_t missing, int64_t most, int64_t experts_per_rank,
            std::vector<int64_t>& rows) {
  bool moved = true;
  while (missing != 0 && moved) {
    moved = false;
    for (size_t first = 0; first < rows.size() && missing != 0;
         first += experts_per_rank) {
      const auto begin = rows.begin() + first;
      const auto end = begin + experts_per_rank;
      if (missing > 0) {
        const auto fewest = std::min_element(begin, end);
        if (*fewest >= most) continue;
        ++*fewest;
        --missing;
      } else {
        const auto largest = std::max_element(begin, end);
        if (*largest <= 0) continue;
        --*largest;
        ++missing;
      }
      moved = true;
    }
  }
}

// Experts by rows, most first; of equal ones the first first.
std::vector<size_t> Descending(const std::vector<int64_t>& rows) {
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rows[a] > rows[b]; });
  return order;
}

// What experts have above `most` goes to others, up to `most`, in that order.
template <typename Order>
void Cap(int64_t most, const Order& order, std::vector<int64_t>& rows) {
  int64_t above = 0;
  for (int64_t& of_expert : rows) {
    above += std::max<int64_t>(0, of_expert - most);
    of_expert = std::min(of_expert, most);
  }
  for (const size_t expert : order) {
    const int64_t moved = std::min(above, most - rows[expert]);
    rows[expert] += moved;
    above -= moved;
  }
}

// Takes `extra` rows away, one of each expert in turn, over and over; of the
// one with the most where an expert has none.
void TakeAway(int64_t extra, const std::vector<size_t>& order,
              std::vector<int64_t>& rows) {
  for (int64_t i = 0; i < extra; ++i) {
    int64_t& of_expert = rows[order[i % order.size()]];
    --(of_expert > 0 ? of_expert : *std::max_element(rows.begin(), rows.end()));
  }
}

// As Settle, but without regard to ranks; see Leftover.
void SettleByRows(Leftover leftover, int64_t choices, int64_t most,
                  std::vector<int64_t>& rows) {
  const auto ascending = [&] {
    std::vector<size_t> order = Descending(rows);
    std::reverse(order.begin(), order.end());
    return order;
  };
  const auto missing = [&] {
    return choices - std::accumulate(rows.begin(), rows.end(), int64_t{0});
  };
  if (leftover == Leftover::kFewest) Cap(most, ascending(), rows);
  const std::vector<size_t> fewest_first = ascending();
  int64_t left = missing();
  TakeAway(-left, fewest_first, rows);
  if (leftover == Leftover::kFewest) {
    // choices are at most `most` of each expert, so there is room.
    for (size_t i = 0; left > 0; i = (i + 1) % rows.size()) {
      if (rows[fewest_first[i]] >= most) continue;
      ++rows[fewest_first[i]];
      --left;
    }
  } else {
    const std::vector<size_t> most_first = Descending(rows);
    for (int64_t i = 0; i < left; ++i) ++rows[most_first[i % rows.size()]];
  }
}

// Tokens that chose one of the first `local` experts, if experts in descending
// order of rows take the tokens one after the other, over and over.
int64_t TokensOfFirst(int64_t local, int64_t tokens,
                      const std::vector<int64_t>& rows) {
  std::vector<std::pair<int64_t, int64_t>> taken;  // [first, last) of tokens
  int64_t next = 0;
  for (const size_t expert : Descending(rows)) {
    if (static_cast<int64_t>(expert) < local && rows[expert] > 0) {
      const int64_t first = next % tokens;
      const int64_t last = first + rows[expert];
      taken.push_back({first, std::min(last, tokens)});
      if (last > tokens) taken.push_back({0, last - tokens});
    }
    next += rows[expert];
  }
  std::sort(taken.begin(), taken.end());
  int64_t covered = 0, end = 0;
  for (const auto& [first, last] : taken) {
    covered += std::max<int64_t>(0, last - std::max(first, end));
    end = std::max(end, last);
  }
  return covered;
}

}  // namespace

ExpertRows RowsOf(absl::Span<const int64_t> rows_per_expert) {
  ExpertRows result;
  for (const int64_t rows : rows_per_expert) {
    if (rows <= 0) continue;
    result.rows += rows;
    result.touched += 1;
    for (int i = 0; i < ExpertRows::kNumHeights; ++i) {
      result.blocks[i] += CeilDiv(rows, ExpertRows::kHeight[i]);
    }
  }
  return result;
}

ExpertRows EvenRows(double rows, int64_t experts) {
  ExpertRows result;
  if (rows <= 0 || experts <= 0) return result;
  result.rows = rows;
  result.touched = std::min<double>(experts, std::ceil(rows));
  const double each = rows / result.touched;
  for (int i = 0; i < ExpertRows::kNumHeights; ++i) {
    result.blocks[i] =
        result.touched * std::ceil(each / ExpertRows::kHeight[i]);
  }
  return result;
}

LocalLoads BalancedLoads(const LoadShape& shape) {
  CheckShape(shape);
  const int64_t local = shape.experts / shape.expert_parallel;
  const int64_t stride = CeilDiv(shape.experts, shape.top_k);
  LocalLoads loads;
  loads.rows.resize(local);
  for (int64_t token = 0; token < shape.tokens; ++token) {
    const int64_t first =
        shape.tokens >= stride ? token : token * stride / shape.tokens;
    bool chose_local = false;
    for (int64_t choice = 0; choice < shape.top_k; ++choice) {
      const int64_t expert = (first + choice * stride) % shape.experts;
      if (expert >= local) continue;
      ++loads.rows[expert];
      chose_local = true;
    }
    loads.tokens += chose_local;
  }
  return loads;
}

LocalLoads PowerLawLoads(const LoadShape& shape, double alpha, uint64_t seed,
                         Leftover leftover) {
  CheckShape(shape);
  const int64_t local = shape.experts / shape.expert_parallel;
  const int64_t choices = shape.tokens * shape.top_k;
  const bool many = choices > shape.experts;
  const double least = many ? 1 : 0.01;
  const double most = many ? std::max(1.0, 0.8 * shape.tokens) : 2;

  Random random(seed, HashName("power law loads"));
  std::vector<double> draw(shape.experts);
  for (double& x : draw) x = PowerLaw(random.Uniform(), alpha, least, most);
  const double sum = std::accumulate(draw.begin(), draw.end(), 0.0);
  std::vector<int64_t> rows(shape.experts);
  for (int64_t i = 0; i < shape.experts; ++i) {
    rows[i] = std::llround(draw[i] / sum * static_cast<double>(choices));
  }
  if (leftover == Leftover::kFewestOfEachRank) {
    for (int64_t& of_expert : rows) {
      of_expert = std::min(of_expert, shape.tokens);
    }
    Settle(choices - std::accumulate(rows.begin(), rows.end(), int64_t{0}),
           shape.tokens, local, rows);
  } else {
    SettleByRows(leftover, choices, shape.tokens, rows);
  }

  int64_t busiest = 0, busiest_rows = -1;
  for (int64_t rank = 0; rank < shape.expert_parallel; ++rank) {
    const auto begin = rows.begin() + rank * local;
    const int64_t total = std::accumulate(begin, begin + local, int64_t{0});
    if (total > busiest_rows) {
      busiest_rows = total;
      busiest = rank;
    }
  }
  if (busiest != 0) {
    std::swap_ranges(rows.begin(), rows.begin() + local,
                     rows.begin() + busiest * local);
  }
  if (leftover == Leftover::kMost) {
    // The router drops a token's second choice of one expert, and fills up with
    // the first experts it has not chosen.
    std::vector<size_t> first_to_last(rows.size());
    std::iota(first_to_last.begin(), first_to_last.end(), size_t{0});
    Cap(shape.tokens, first_to_last, rows);
  }
  LocalLoads loads;
  loads.tokens = TokensOfFirst(local, shape.tokens, rows);
  loads.rows.assign(rows.begin(), rows.begin() + local);
  return loads;
}

}  // namespace strata
