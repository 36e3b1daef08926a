// The metrics of a run: a file of JSON objects, one a line.
//
//   {"kind": "manifest", ...}          what the run is made from; once, first
//   {"kind": "step", "step": 1, ...}   each step once, in order
//   {"kind": "validation", "step": 100, ...}
//   {"kind": "resume", "step": 100, ...}   where a later process went on
//
// A line is there whole or not at all, also when the disk is full or the
// process is killed.

#ifndef TRAINING_RUN_METRICS_LOG_H_
#define TRAINING_RUN_METRICS_LOG_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {

inline constexpr char kMetricsFile[] = "metrics.jsonl";

class MetricsLog {
 public:
  // Begins the file at `path` with `manifest`; one that exists is replaced.
  static absl::StatusOr<MetricsLog> Create(const std::string& path,
                                           const nlohmann::json& manifest);

  // Goes on with the file of a run that is resumed after `step` steps: drops
  // the lines of later steps, which will be done again, and notes the resume
  // with `manifest`. Begins the file if there is none.
  static absl::StatusOr<MetricsLog> Resume(const std::string& path,
                                           int64_t step,
                                           const nlohmann::json& manifest);

  MetricsLog(MetricsLog&& other) noexcept;
  MetricsLog& operator=(MetricsLog&& other) noexcept;
  ~MetricsLog();

  absl::Status Append(const nlohmann::json& line);

  // The step of the last validation in the file; -1 if there is none.
  int64_t last_validation() const { return last_validation_; }

 private:
  MetricsLog(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  static absl::StatusOr<MetricsLog> Open(const std::string& path,
                                         absl::string_view contents);

  std::string path_;
  int fd_ = -1;
  int64_t num_bytes_ = 0;  // Of whole lines.
  int64_t last_validation_ = -1;
};

}  // namespace strata

#endif  // TRAINING_RUN_METRICS_LOG_H_
