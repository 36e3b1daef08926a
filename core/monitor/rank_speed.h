// Which of the ranks that train together is slow, by what each of them works
// when it does not wait for others: the slow one waits least.
//
//   own = seconds of a window that a rank did not wait (core/parallel/
//         rank_wait.h)
//
//   where others have the same work, the ranks of a pipeline's stage:
//     times = own / (median of the others' own)
//                 / max(1, rows / (median of the others' rows))
//
//     with the rows of the rank's experts: more are more work, no slow rank
//
//   where a stage has one rank:
//     growth = own / the least that it has been
//     times = growth / median growth of all other ranks

#ifndef CORE_MONITOR_RANK_SPEED_H_
#define CORE_MONITOR_RANK_SPEED_H_

#include <vector>

#include "absl/types/span.h"

namespace strata {

class RankSpeed {
 public:
  // `stages`: of each rank, of which there are two or more.
  explicit RankSpeed(std::vector<int> stages);

  struct Slowest {
    int rank = 0;
    double times = 1;  // As long as the others take.
  };
  // Takes a window: `own` seconds of each rank, all above 0, and `rows` of its
  // experts in any unit, empty where no experts are shared out.
  Slowest Observe(absl::Span<const double> own, absl::Span<const double> rows);

 private:
  std::vector<int> stages_;
  std::vector<double> least_;  // Of each rank, so far.
};

}  // namespace strata

#endif  // CORE_MONITOR_RANK_SPEED_H_
