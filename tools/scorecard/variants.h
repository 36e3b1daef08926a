// The models that claims compare: one hierarchical model, and its flat siblings
// of as many parameters.
//
//   v1         flat softmax top-k, 30 % of the experts, no balancing
//   v2         the same with a load-balance loss
//   v3         the hierarchical model
//   v3-sparse  the same, used with a smaller tau than it is trained with: about
//              18 % of the experts
//   v2-3 ...   v2 with another share of the experts

#ifndef TOOLS_SCORECARD_VARIANTS_H_
#define TOOLS_SCORECARD_VARIANTS_H_

#include <set>
#include <string>
#include <vector>

#include "core/model/config.pb.h"

namespace strata {

inline constexpr char kV1[] = "v1";
inline constexpr char kV2[] = "v2";
inline constexpr char kV3[] = "v3";
inline constexpr char kV3Sparse[] = "v3-sparse";

struct FlatShare {
  const char* name;
  const char* text;
  double share;
};
inline constexpr FlatShare kV2Shares[] = {{"v2-3", "3 %", 0.03},
                                          {"v2-6", "6 %", 0.06},
                                          {"v2-12", "12 %", 0.12},
                                          {"v2-18", "18 %", 0.18},
                                          {"v2-50", "50 %", 0.50}};

// The tau with which v3-sparse uses about 18 % of the demo's experts.
inline constexpr double kSparseTau = 0.56;

struct Variant {
  std::string name;
  ModelConfig config;
  bool probe = false;  // For cold start and redundancy, which A2 wants.
};

// The variants of `hierarchical` that the claims of `ids` ("A1", ...) need.
std::vector<Variant> VariantsOf(const ModelConfig& hierarchical,
                                const std::set<std::string>& ids);

}  // namespace strata

#endif  // TOOLS_SCORECARD_VARIANTS_H_
