#include "core/base/staged_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

// The middle of a temporary name: ".<final name><kStaging><process>-<count>".
constexpr absl::string_view kStaging = ".staging-";
// Of an old folder that has stepped aside for a new one.
constexpr absl::string_view kAside = ".aside-";

// Every process that is alive holds a lock on its temporary folders, which the
// system drops when the process ends, however it ends.
enum class Lock { kTaken, kHeldByAnother, kUnsupported };

Lock TryLock(int fd) {
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return Lock::kTaken;
  return errno == EWOULDBLOCK ? Lock::kHeldByAnother : Lock::kUnsupported;
}

int OpenFolder(const std::string& path) {
  return open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

// Whether `fd` still is what `path` names.
bool IsAt(int fd, const std::string& path) {
  struct stat a, b;
  return fstat(fd, &a) == 0 && lstat(path.c_str(), &b) == 0 &&
         a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

std::string ParentOf(const std::string& path) {
  const std::string parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

// ".<name><mark><suffix>" beside the final path.
std::string TemporaryPath(const std::string& final_path, absl::string_view mark,
                          absl::string_view suffix) {
  return fs::path(final_path).parent_path() /
         absl::StrCat(".", fs::path(final_path).filename().string(), mark,
                      suffix);
}

// The final name in a temporary one, or "" if `name` bears no such mark.
std::string FinalName(absl::string_view name, absl::string_view mark) {
  const size_t at = name.rfind(mark);
  if (name[0] != '.' || at == absl::string_view::npos || at < 2) return "";
  const absl::string_view suffix = name.substr(at + mark.size());
  if (suffix.empty() ||
      suffix.find_first_not_of("0123456789-") != absl::string_view::npos) {
    return "";
  }
  return std::string(name.substr(1, at - 1));
}

// Leftovers that cannot be removed now are removed another time.
void RemoveFolder(const std::string& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

absl::Status CheckIsFolderOrNothing(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot replace ", path, ": it exists and is not a folder"));
  }
  return absl::OkStatus();
}

absl::Status SyncTree(const std::string& folder) {
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (; !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    if (it->is_symlink(error)) continue;
    if (!error) RETURN_IF_ERROR(SyncPath(it->path()));
  }
  if (error) return FileError(error.value(), "sync the folder", folder);
  return SyncPath(folder);
}

}  // namespace

absl::StatusOr<StagedDirectory> StagedDirectory::Create(
    const std::string& final_path) {
  fs::path path = fs::path(final_path).lexically_normal();
  if (path.has_parent_path() && !path.has_filename()) path = path.parent_path();
  const std::string name = path.filename();
  if (name.empty() || name == "." || name == "..") {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", final_path, "\" does not name a folder to write"));
  }
  RETURN_IF_ERROR(CheckIsFolderOrNothing(path));
  RETURN_IF_ERROR(MakeFolders(ParentOf(path)));
  RETURN_IF_ERROR(TidyStaging(ParentOf(path)));

  // A name is taken if a process of that number left it and it could not be
  // tidied away, or if a tidying process catches it before the lock.
  static std::atomic<int64_t> count{0};
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const std::string staging = TemporaryPath(
        path, kStaging, absl::StrCat(getpid(), "-", count.fetch_add(1)));
    if (mkdir(staging.c_str(), 0777) != 0) {
      if (errno == EEXIST) continue;
      return FileError(errno, "make the folder", staging);
    }
    const int fd = OpenFolder(staging);
    if (fd < 0) continue;
    if (TryLock(fd) == Lock::kHeldByAnother || !IsAt(fd, staging)) {
      close(fd);
      continue;
    }
    return StagedDirectory(path, staging, fd);
  }
  return absl::UnavailableError(
      absl::StrCat("cannot make a temporary folder beside ", path.string()));
}

StagedDirectory::StagedDirectory(StagedDirectory&& other) noexcept {
  *this = std::move(other);
}

StagedDirectory& StagedDirectory::operator=(StagedDirectory&& other) noexcept {
  std::swap(final_path_, other.final_path_);
  std::swap(path_, other.path_);
  std::swap(lock_fd_, other.lock_fd_);
  std::swap(swap_, other.swap_);
  return *this;
}

StagedDirectory::~StagedDirectory() {
  if (lock_fd_ < 0) return;
  RemoveFolder(path_);
  close(lock_fd_);
}

absl::Status StagedDirectory::WriteFile(absl::string_view name,
                                        absl::string_view contents) {
  ASSIGN_OR_RETURN(OutputFile file,
                   OutputFile::Create(absl::StrCat(path_, "/", name)));
  RETURN_IF_ERROR(file.Append(contents));
  return file.Close();
}

absl::Status StagedDirectory::Commit() {
  CHECK(lock_fd_ >= 0) << final_path_ << " was committed before";
  RETURN_IF_ERROR(SyncTree(path_));
  RETURN_IF_ERROR(CheckIsFolderOrNothing(final_path_));
  RETURN_IF_ERROR(Rename());
  close(lock_fd_);
  lock_fd_ = -1;
  return SyncPath(ParentOf(final_path_));
}

absl::Status StagedDirectory::Rename() {
  const auto failed = [this] {
    return FileError(errno, "rename the new folder to", final_path_);
  };
  const int old_fd = OpenFolder(final_path_);
  if (old_fd < 0) {
    return rename(path_.c_str(), final_path_.c_str()) == 0 ? absl::OkStatus()
                                                           : failed();
  }
  // Under a temporary name the old folder is ours until it is gone.
  TryLock(old_fd);
  std::string old_path = path_;
  bool ok = false;
  if (swap_) {
    ok = renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(),
                   RENAME_EXCHANGE) == 0;
  }
  if (!swap_ || (!ok && (errno == EINVAL || errno == ENOSYS))) {
    const size_t mark = absl::string_view(path_).rfind(kStaging);
    old_path = TemporaryPath(final_path_, kAside,
                             path_.substr(mark + kStaging.size()));
    ok = rename(final_path_.c_str(), old_path.c_str()) == 0;
    if (ok && rename(path_.c_str(), final_path_.c_str()) != 0) {
      const int error_number = errno;
      rename(old_path.c_str(), final_path_.c_str());
      errno = error_number;
      ok = false;
    }
  }
  absl::Status status = ok ? absl::OkStatus() : failed();
  if (ok) {
    // On the disk, too, the new name must be there before the old data goes.
    status = SyncPath(ParentOf(final_path_));
    if (status.ok()) RemoveFolder(old_path);
  }
  close(old_fd);
  return status;
}

absl::Status TidyStaging(const std::string& parent) {
  std::error_code error;
  fs::directory_iterator it(parent, error);
  if (error == std::errc::no_such_file_or_directory) return absl::OkStatus();
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string path = it->path();
    const std::string name = it->path().filename();
    const std::string aside_for = FinalName(name, kAside);
    if (aside_for.empty() && FinalName(name, kStaging).empty()) continue;
    const int fd = OpenFolder(path);
    if (fd < 0) continue;
    if (TryLock(fd) == Lock::kTaken && IsAt(fd, path)) {
      const fs::path final_path = it->path().parent_path() / aside_for;
      std::error_code ignored;
      if (!aside_for.empty() && !fs::exists(final_path, ignored)) {
        fs::rename(path, final_path, ignored);
      } else {
        RemoveFolder(path);
      }
    }
    close(fd);
  }
  if (error) return FileError(error.value(), "list the folder", parent);
  return absl::OkStatus();
}

}  // namespace strata
