#include "core/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"

namespace strata {
namespace {

// Largest read or write in one call; some systems refuse 2 GiB and more.
constexpr size_t kMaxTransferBytes = size_t{1} << 30;

// What a write of `num_bytes` to the open file `fd` failed with.
absl::Status WriteError(int error_number, int fd, absl::string_view path,
                        int64_t num_bytes) {
  if (error_number != ENOSPC && error_number != EDQUOT) {
    return FileError(error_number, "write", path);
  }
  std::string free;
  struct statvfs disk;
  if (fstatvfs(fd, &disk) == 0) {
    const uint64_t free_bytes = uint64_t{disk.f_bavail} * disk.f_frsize;
    free = absl::StrCat(", ", free_bytes, " are free");
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot write ", path, ": ",
                   error_number == EDQUOT ? "disk quota used up" : "disk full",
                   " (", num_bytes, " more bytes wanted", free, ")"));
}

}  // namespace

absl::Status FileError(int error_number, absl::string_view action,
                       absl::string_view path) {
  const absl::StatusCode code = absl::ErrnoToStatusCode(error_number);
  const std::string cause =
      error_number == ENOSPC
          ? "disk full"
          : std::error_code(error_number, std::generic_category()).message();
  return absl::Status(code,
                      absl::StrCat("cannot ", action, " ", path, ": ", cause));
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileError(errno, "open", path);
  const auto closer = absl::MakeCleanup([fd] { close(fd); });
  struct stat info;
  if (fstat(fd, &info) != 0) return FileError(errno, "read", path);

  // One byte more than the size shows the end with no second growth. Files of
  // /proc have size 0 and must be read until they end.
  std::string contents;
  size_t num_read = 0;
  contents.resize(std::max<size_t>(info.st_size, 4095) + 1);
  for (;;) {
    if (num_read == contents.size()) contents.resize(2 * contents.size());
    const ssize_t got =
        read(fd, &contents[num_read],
             std::min(contents.size() - num_read, kMaxTransferBytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError(errno, "read", path);
    if (got == 0) break;
    num_read += got;
  }
  contents.resize(num_read);
  return contents;
}

absl::Status MakeFolders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return FileError(error.value(), "make the folder", path);
  // Of a link to nowhere, create_directories says that all is well.
  if (!std::filesystem::is_directory(path, error)) {
    return FileError(ENOTDIR, "make the folder", path);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListFiles(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (; !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    std::error_code no_target;  // A link that dangles is no file.
    if (it->is_regular_file(no_target)) {
      files.push_back(it->path().lexically_relative(folder).string());
    }
  }
  if (error) return FileError(error.value(), "list the folder", folder);
  std::sort(files.begin(), files.end());
  return files;
}

absl::Status SyncPath(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileError(errno, "open", path);
  const int error_number = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  // Some filesystems have nothing to sync for a folder and say EINVAL.
  if (error_number != 0 && error_number != EINVAL) {
    return FileError(error_number, "sync", path);
  }
  return absl::OkStatus();
}

absl::StatusOr<OutputFile> OutputFile::Open(const std::string& path, int flag) {
  const int fd =
      open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flag, 0666);
  if (fd < 0) return FileError(errno, "create", path);
  return OutputFile(fd, path);
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  return Open(path, O_TRUNC);
}

absl::StatusOr<OutputFile> OutputFile::CreateNew(const std::string& path) {
  return Open(path, O_EXCL);
}

OutputFile::OutputFile(OutputFile&& other) noexcept {
  *this = std::move(other);
}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(num_bytes_, other.num_bytes_);
  return *this;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status OutputFile::Append(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put =
        write(fd_, bytes.data(), std::min(bytes.size(), kMaxTransferBytes));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return WriteError(errno, fd_, path_, bytes.size());
    num_bytes_ += put;
    bytes.remove_prefix(put);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Close() {
  // Filesystems that allocate late run out of space only here.
  const int sync_error = fsync(fd_) == 0 ? 0 : errno;
  const int close_error = close(fd_) == 0 ? 0 : errno;
  fd_ = -1;
  // Devices and pipes have nothing to sync and say EINVAL.
  if (sync_error != 0 && sync_error != EINVAL) {
    return FileError(sync_error, "write", path_);
  }
  if (close_error != 0) return FileError(close_error, "write", path_);
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents) {
  return WriteFileAtomically(
      path, [contents](OutputFile& file) { return file.Append(contents); });
}

absl::Status WriteFileAtomically(
    const std::string& path,
    absl::FunctionRef<absl::Status(OutputFile& file)> write) {
  // The process's number keeps two writers apart; the last rename wins.
  const std::string temporary = absl::StrCat(path, ".tmp-", getpid());
  auto remover = absl::MakeCleanup([&] { unlink(temporary.c_str()); });
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(temporary));
  RETURN_IF_ERROR(write(file));
  RETURN_IF_ERROR(file.Close());
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    return FileError(errno, "replace", path);
  }
  std::move(remover).Cancel();
  const std::string parent = std::filesystem::path(path).parent_path();
  return SyncPath(parent.empty() ? "." : parent);
}

}  // namespace strata
