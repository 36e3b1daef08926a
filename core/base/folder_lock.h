// A lock on a folder, so that two processes do not write the same one.
//
//   ASSIGN_OR_RETURN(FolderLock lock, FolderLock::Take("runs/demo"));
//
// It is the system's lock on <folder>/.lock, which holds the number of the
// process. The system drops it when the process ends, however it ends, so a
// file that a killed process left is no lock. Advisory: it keeps out who asks.
// Where the file system knows no locks, everybody gets one.

#ifndef CORE_BASE_FOLDER_LOCK_H_
#define CORE_BASE_FOLDER_LOCK_H_

#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace strata {

class FolderLock {
 public:
  // The folder must exist.
  //
  // Returns UNAVAILABLE if somebody, in this process or another, holds the
  // lock; the message names the folder and, where it is known, the process.
  static absl::StatusOr<FolderLock> Take(const std::string& folder);

  // Releases the lock and removes its file.
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;

 private:
  FolderLock(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_ = -1;  // -1 if moved from.
};

}  // namespace strata

#endif  // CORE_BASE_FOLDER_LOCK_H_
