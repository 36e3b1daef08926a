// Reading, writing and listing files, with errors that name the path and the
// cause.
//
// Codes follow the system's error: NOT_FOUND, PERMISSION_DENIED,
// RESOURCE_EXHAUSTED for a full disk (the message then says how many bytes were
// wanted and how many are free), and so on.

#ifndef CORE_BASE_FILES_H_
#define CORE_BASE_FILES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

// The status for `error_number`, as in errno: "cannot <action> <path>:
// <cause>". `action` is "open", "read", ...
absl::Status FileError(int error_number, absl::string_view action,
                       absl::string_view path);

// The whole content of a file.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Replaces the file at `path`, or makes it, so that whoever reads it, also
// after a crash, sees all of the old content or all of the new.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents);

// Makes the folder and those above it; none is an error if it exists.
absl::Status MakeFolders(const std::string& path);

// The regular files below `folder`, relative to it, sorted by their bytes.
// Links to files are followed, links to folders are not.
absl::StatusOr<std::vector<std::string>> ListFiles(const std::string& folder);

// Flushes a file's or a folder's own entry to the disk.
absl::Status SyncPath(const std::string& path);

// A file that is written from front to back.
class OutputFile {
 public:
  // Makes the file; one that exists is emptied.
  static absl::StatusOr<OutputFile> Create(const std::string& path);

  // Makes the file. Returns ALREADY_EXISTS if there is one.
  static absl::StatusOr<OutputFile> CreateNew(const std::string& path);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  absl::Status Append(absl::string_view bytes);

  // Flushes to the disk and closes. A file that was not closed may lack bytes.
  absl::Status Close();

  int64_t num_bytes() const { return num_bytes_; }

 private:
  OutputFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  // O_TRUNC or O_EXCL.
  static absl::StatusOr<OutputFile> Open(const std::string& path, int flag);

  int fd_ = -1;
  std::string path_;
  int64_t num_bytes_ = 0;
};

// Replaces the file at `path`, or makes it, so that whoever reads it, also
// after a crash, sees all of the old content or all of the new. The second form
// takes what `write` appends.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents);
absl::Status WriteFileAtomically(
    const std::string& path,
    absl::FunctionRef<absl::Status(OutputFile& file)> write);

}  // namespace strata

#endif  // CORE_BASE_FILES_H_
