// How much an expert says about the domain of the text that it is given.
//
//   rows  [domains][experts]  assignments of tokens to the experts of one gate
//     |
//     |  p(e | d) = rows[d][e] / sum over e of rows[d][e];  p(d) = 1 / D
//     v
//   I(expert; domain) = H(domain) - H(domain | expert), in bits
//
// Each domain weighs alike, however many rows it has; one without rows, whose
// tokens all left before this gate, is not among the D. Zero bits: every domain
// uses the experts alike. The most there can be is the lesser of the two
// entropies; all of H(domain) = log2 D means that each expert serves one
// domain.
//
// What is measured from samples is above 0 by chance alone. Two remedies:
//   corrected  less the first-order bias if rows were drawn independently
//              (Miller and Madow's, for samples of fixed size from each domain)
//   null       what the same rows give after the domains were dealt out anew
//              among whole windows of text. The tokens of a window are alike,
//              so rows are not independent; this knows, the correction does
//              not.
//
// Pure functions.

#ifndef TRAINING_INSPECT_SPECIALISATION_H_
#define TRAINING_INSPECT_SPECIALISATION_H_

#include <cstdint>
#include <vector>

namespace strata {

using RowCounts = std::vector<std::vector<int64_t>>;  // [domains][experts]

struct Specialisation {
  double bits = 0;            // I(expert; domain) as measured; never below 0.
  double corrected_bits = 0;  // Less the bias; may be below 0 where bits is 0.
  double domain_bits = 0;     // H(domain) = log2 of the domains with rows.
  double expert_bits = 0;     // H(expert).

  double bound_bits() const;  // The most that `bits` can be.
  // corrected_bits as a share of H(domain); 0 where there is one domain.
  double normalised() const;
};

// `rows` must be rectangular and not negative. All is 0 if there are no rows.
Specialisation MeasureSpecialisation(const RowCounts& rows);

// One expert's part.
struct ExpertProfile {
  double load = 0;                   // p(e): share of the gate's load.
  std::vector<double> domain_share;  // [domains], p(d | e); 0 without load.
  double bits = 0;  // Of the domain, known from p(d | e) alone: H(domain) -
                    // H(domain | this expert). Their mean by load is I.
};
std::vector<ExpertProfile> ProfileExperts(const RowCounts& rows);  // [experts]

// The windows whose text a gate saw, for chance to shuffle.
struct WindowRows {
  std::vector<int> domain;  // [windows]
  RowCounts rows;           // [windows][experts]
};
RowCounts SumByDomain(const WindowRows& windows, int num_domains);

// `bits` after each of `num_shuffles` random permutations of the windows'
// domains, a function of the seed alone: gates of the same windows are shuffled
// alike, so that their nulls can be averaged shuffle by shuffle.
std::vector<double> ShuffledBits(const WindowRows& windows, int num_domains,
                                 int num_shuffles, uint64_t seed);

// A measurement held against its null.
struct NullTest {
  double mean = 0;     // Bits by chance.
  double upper = 0;    // 95 of 100 shuffles give no more.
  double p_value = 1;  // Share of shuffles, the data among them, that give
                       // as much as the data.
};
NullTest CompareToNull(double bits, std::vector<double> shuffled_bits);

}  // namespace strata

#endif  // TRAINING_INSPECT_SPECIALISATION_H_
