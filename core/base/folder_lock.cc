#include "core/base/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"

namespace strata {
namespace {

// Whether `path` still names the open file.
bool IsAt(int fd, const std::string& path) {
  struct stat a, b;
  return fstat(fd, &a) == 0 && stat(path.c_str(), &b) == 0 &&
         a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// For the message of others alone, so a full disk is no error.
void WriteProcess(int fd) {
  const std::string process = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0) return;
  if (pwrite(fd, process.data(), process.size(), 0) < 0) return;
}

absl::Status Held(int fd, const std::string& folder) {
  char text[32];
  const ssize_t size = pread(fd, text, sizeof(text), 0);
  int64_t process = 0;
  // Its holder may not have written yet, or have had no room to.
  const bool known =
      size > 0 && absl::SimpleAtoi(absl::string_view(text, size), &process);
  return absl::UnavailableError(absl::StrCat(
      folder, " is in use by ",
      known ? absl::StrCat("process ", process) : "another process",
      "; want another folder, or wait until that process ends"));
}

}  // namespace

absl::StatusOr<FolderLock> FolderLock::Take(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/.lock");
  while (true) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return FileError(errno, "open", path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      absl::Status held = Held(fd, folder);
      close(fd);
      return held;
    }
    // Its holder may have removed the file between open and flock: then the
    // lock is on nothing that others would find.
    if (!IsAt(fd, path)) {
      close(fd);
      continue;
    }
    WriteProcess(fd);
    return FolderLock(path, fd);
  }
}

FolderLock::FolderLock(FolderLock&& other) noexcept {
  *this = std::move(other);
}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

FolderLock::~FolderLock() {
  if (fd_ < 0) return;
  // In this order: nobody else can hold the file that is removed.
  unlink(path_.c_str());
  close(fd_);
}

}  // namespace strata
