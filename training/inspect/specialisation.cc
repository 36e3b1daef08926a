#include "training/inspect/specialisation.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/random.h"

namespace strata {
namespace {

// Sums of logarithms round; a p-value must not turn on the last bit.
constexpr double kRounding = 1e-12;

int64_t Sum(const std::vector<int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

// -p log2 p.
double EntropyTerm(double p) { return p > 0 ? -p * std::log2(p) : 0; }

// p(e | d) of the domains that have rows, and how many rows each has.
struct Conditional {
  std::vector<std::vector<double>> share;  // [domains with rows][experts]
  std::vector<double> num_rows;            // [domains with rows]
  std::vector<double> load;                // [experts], the mean of `share`
};

Conditional ConditionalOf(const RowCounts& rows) {
  Conditional conditional;
  if (rows.empty()) return conditional;
  conditional.load.assign(rows[0].size(), 0);
  for (const std::vector<int64_t>& domain : rows) {
    CHECK(domain.size() == rows[0].size())
        << domain.size() << " experts, and " << rows[0].size();
    const int64_t total = Sum(domain);
    if (total == 0) continue;
    conditional.num_rows.push_back(static_cast<double>(total));
    std::vector<double>& share = conditional.share.emplace_back();
    for (size_t e = 0; e < domain.size(); ++e) {
      CHECK(domain[e] >= 0) << "an expert's rows are " << domain[e];
      share.push_back(static_cast<double>(domain[e]) /
                      static_cast<double>(total));
      conditional.load[e] += share[e];
    }
  }
  for (double& load : conditional.load) {
    load /= std::max<double>(1, static_cast<double>(conditional.share.size()));
  }
  return conditional;
}

// By how much `bits` is above its true value on average, to first order in
// 1 / rows. A measured entropy is short by half the sum of Var(p) / p nats:
//   H(expert | d)  by (m_d - 1) / (2 N_d), m_d being the experts that d uses
//   H(expert)      by half the sum over e of Var(p(e)) / p(e), where p(e) is
//                  the mean over D domains of N_d rows each
// and I = H(expert) - mean over d of H(expert | d).
double BiasBits(const Conditional& conditional) {
  const auto num_domains = static_cast<double>(conditional.share.size());
  double nats = 0;
  for (size_t d = 0; d < conditional.share.size(); ++d) {
    const double num_rows = conditional.num_rows[d];
    double used = 0;
    double marginal = 0;
    for (size_t e = 0; e < conditional.load.size(); ++e) {
      const double p = conditional.share[d][e];
      if (p == 0) continue;
      ++used;
      marginal += p * (1 - p) / conditional.load[e];
    }
    nats += (used - 1) / (2 * num_rows) / num_domains -
            marginal / (2 * num_rows) / (num_domains * num_domains);
  }
  return nats / std::log(2.0);
}

}  // namespace

double Specialisation::bound_bits() const {
  return std::min(domain_bits, expert_bits);
}

double Specialisation::normalised() const {
  return domain_bits > 0 ? corrected_bits / domain_bits : 0;
}

Specialisation MeasureSpecialisation(const RowCounts& rows) {
  const Conditional conditional = ConditionalOf(rows);
  Specialisation result;
  if (conditional.share.empty()) return result;
  const auto num_domains = static_cast<double>(conditional.share.size());
  result.domain_bits = std::log2(num_domains);
  for (const double load : conditional.load) {
    result.expert_bits += EntropyTerm(load);
  }
  // Term by term as a divergence, so that equal domains give exactly 0.
  for (const std::vector<double>& share : conditional.share) {
    for (size_t e = 0; e < share.size(); ++e) {
      if (share[e] == 0) continue;
      result.bits +=
          share[e] * std::log2(share[e] / conditional.load[e]) / num_domains;
    }
  }
  result.bits = std::max(0.0, result.bits);
  result.corrected_bits = result.bits - BiasBits(conditional);
  return result;
}

std::vector<ExpertProfile> ProfileExperts(const RowCounts& rows) {
  const Conditional conditional = ConditionalOf(rows);
  std::vector<ExpertProfile> profiles(conditional.load.size());
  const auto num_domains = static_cast<double>(conditional.share.size());
  for (size_t e = 0; e < profiles.size(); ++e) {
    ExpertProfile& profile = profiles[e];
    profile.load = conditional.load[e];
    profile.domain_share.assign(rows.size(), 0);
    if (profile.load == 0) continue;
    double entropy = 0;
    size_t with_rows = 0;
    for (size_t d = 0; d < rows.size(); ++d) {
      if (Sum(rows[d]) == 0) continue;
      const double share =
          conditional.share[with_rows++][e] / (num_domains * profile.load);
      profile.domain_share[d] = share;
      entropy += EntropyTerm(share);
    }
    profile.bits = std::max(0.0, std::log2(num_domains) - entropy);
  }
  return profiles;
}

RowCounts SumByDomain(const WindowRows& windows, int num_domains) {
  CHECK(windows.domain.size() == windows.rows.size());
  const size_t num_experts = windows.rows.empty() ? 0 : windows.rows[0].size();
  RowCounts sum(num_domains, std::vector<int64_t>(num_experts, 0));
  for (size_t w = 0; w < windows.rows.size(); ++w) {
    std::vector<int64_t>& domain = sum[windows.domain[w]];
    for (size_t e = 0; e < num_experts; ++e) domain[e] += windows.rows[w][e];
  }
  return sum;
}

std::vector<double> ShuffledBits(const WindowRows& windows, int num_domains,
                                 int num_shuffles, uint64_t seed) {
  WindowRows shuffled = windows;
  std::vector<double> bits;
  for (int s = 0; s < num_shuffles; ++s) {
    Random random(seed, static_cast<uint64_t>(s));
    for (size_t w = shuffled.domain.size(); w > 1; --w) {
      std::swap(shuffled.domain[w - 1], shuffled.domain[random.UniformInt(w)]);
    }
    bits.push_back(
        MeasureSpecialisation(SumByDomain(shuffled, num_domains)).bits);
  }
  return bits;
}

NullTest CompareToNull(double bits, std::vector<double> shuffled_bits) {
  NullTest test;
  if (shuffled_bits.empty()) return test;
  const size_t n = shuffled_bits.size();
  std::sort(shuffled_bits.begin(), shuffled_bits.end());
  const auto num_as_high =
      shuffled_bits.end() - std::lower_bound(shuffled_bits.begin(),
                                             shuffled_bits.end(),
                                             bits - kRounding);
  test.mean = std::accumulate(shuffled_bits.begin(), shuffled_bits.end(), 0.0) /
              static_cast<double>(n);
  test.upper = shuffled_bits[(95 * n + 99) / 100 - 1];
  test.p_value =
      (1 + static_cast<double>(num_as_high)) / (1 + static_cast<double>(n));
  return test;
}

}  // namespace strata
