// A limit on a call that cannot be asked whether it is done.
//
//   const Deadline deadline(absl::Seconds(120), "MPI does not end");
//   MPI_Finalize();
//
// If it is still there when the time is up, the process says so on stderr and
// ends with status 1, whatever its threads are doing; mpirun then ends the
// others.

#ifndef TRAINING_DISTRIBUTED_DEADLINE_H_
#define TRAINING_DISTRIBUTED_DEADLINE_H_

#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace strata {

class Deadline {
 public:
  Deadline(absl::Duration limit, std::string what);
  ~Deadline();
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  absl::Notification met_;
  std::thread watch_;
};

}  // namespace strata

#endif  // TRAINING_DISTRIBUTED_DEADLINE_H_
