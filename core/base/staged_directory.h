// A folder that appears whole or not at all.
//
// Files are written into a temporary folder beside the final one:
//
//   runs/.step-200.staging-4711-0/    while it is written
//   runs/step-200/                   once Commit has renamed it
//
// A kill at any moment leaves at the final name all of what was there before or
// all of the new. The temporary folder of a run that was killed is removed by
// the next one that stages in the same parent; that of a run that still lives
// is known by its lock and left alone.

#ifndef CORE_BASE_STAGED_DIRECTORY_H_
#define CORE_BASE_STAGED_DIRECTORY_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

class StagedDirectory {
 public:
  // Stages what shall become the folder `final_path`; makes the folders above
  // it. Also tidies the parent up, as TidyStaging does.
  static absl::StatusOr<StagedDirectory> Create(const std::string& final_path);

  // Removes the temporary folder unless it was committed.
  ~StagedDirectory();
  StagedDirectory(StagedDirectory&& other) noexcept;
  StagedDirectory& operator=(StagedDirectory&& other) noexcept;

  // Where to write. Subfolders are welcome.
  const std::string& path() const { return path_; }

  // Writes path()/`name`, in one go.
  absl::Status WriteFile(absl::string_view name, absl::string_view contents);

  // Flushes every file and folder to the disk and renames. A folder that stands
  // at the final name is replaced and removed. At most once.
  absl::Status Commit();

  // Takes the way of filesystems that cannot swap two names: the old folder
  // steps aside first. A kill in between leaves the final name empty until
  // TidyStaging puts the old folder back.
  void set_swap_for_testing(bool swap) { swap_ = swap; }

 private:
  StagedDirectory(std::string final_path, std::string path, int lock_fd)
      : final_path_(std::move(final_path)),
        path_(std::move(path)),
        lock_fd_(lock_fd) {}

  absl::Status Rename();

  std::string final_path_;
  std::string path_;
  int lock_fd_ = -1;  // The temporary folder, locked; -1 if moved from.
  bool swap_ = true;
};

// Removes what killed runs left in `parent`, and puts back a folder that had
// stepped aside when its replacement was killed. Readers of committed folders
// call it before they look. No error if there is no such folder.
absl::Status TidyStaging(const std::string& parent);

}  // namespace strata

#endif  // CORE_BASE_STAGED_DIRECTORY_H_
