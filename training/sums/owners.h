// Which rank of a group updates each of the parameters that all its ranks hold
// (ZeRO-1): whole parameters, so that a tensor has a rank.

#ifndef TRAINING_SUMS_OWNERS_H_
#define TRAINING_SUMS_OWNERS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace strata {

class Owners {
 public:
  struct Parameter {
    std::string name;
    int64_t elements = 0;
  };

  // The largest go first, each to the rank that has the fewest elements so far;
  // of those alike the first by name. So it does not matter in which order they
  // are given. With one rank it has all.
  Owners(std::vector<Parameter> parameters, int num_ranks, int rank);

  int num_ranks() const { return num_ranks_; }
  // Whether it is one of them.
  bool Has(const std::string& parameter) const {
    return owner_.count(parameter) > 0;
  }
  int Of(const std::string& parameter) const { return owner_.at(parameter); }
  // Whether it is one of them, and this rank's.
  bool IsMine(const std::string& parameter) const;

 private:
  const int num_ranks_;
  const int rank_;
  std::map<std::string, int> owner_;
};

}  // namespace strata

#endif  // TRAINING_SUMS_OWNERS_H_
