// A file mapped into memory, to be read in place.
//
// Pages come from the disk when they are first touched, and the system drops
// them again when it needs the memory. Another process that shortens the file
// meanwhile makes reads beyond its end fail with SIGBUS; files that are
// replaced by a rename, as ours are, stay whole.

#ifndef CORE_BASE_MAPPED_FILE_H_
#define CORE_BASE_MAPPED_FILE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

class MappedFile {
 public:
  // Returns the system's error, with the path, if the file cannot be mapped,
  // and INVALID_ARGUMENT if `path` is not a regular file.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
  }
  ~MappedFile();

  // Page-aligned; null for an empty file.
  const char* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }
  absl::string_view bytes() const {
    return absl::string_view(data_, static_cast<size_t>(num_bytes_));
  }

 private:
  MappedFile() = default;

  const char* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

}  // namespace strata

#endif  // CORE_BASE_MAPPED_FILE_H_
