#include "training/run/metrics_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::json;

std::string Line(const Json& json) {
  // Names of domains are names of folders: any bytes.
  return absl::StrCat(json.dump(-1, ' ', false, Json::error_handler_t::replace),
                      "\n");
}

// A line's integer, or -1.
int64_t StepOf(const Json& json) {
  const auto step = json.find("step");
  return step != json.end() && step->is_number_integer() ? step->get<int64_t>()
                                                         : -1;
}

bool IsKind(const Json& json, absl::string_view kind) {
  const auto found = json.find("kind");
  return found != json.end() && found->is_string() &&
         found->get_ref<const std::string&>() == kind;
}

Json ResumeLine(int64_t step, const Json& manifest) {
  Json line = manifest;
  line["kind"] = "resume";
  line["step"] = step;
  return line;
}

Json ManifestLine(const Json& manifest) {
  Json line = manifest;
  line["kind"] = "manifest";
  return line;
}

}  // namespace

absl::StatusOr<MetricsLog> MetricsLog::Create(const std::string& path,
                                              const Json& manifest) {
  return Open(path, Line(ManifestLine(manifest)));
}

absl::StatusOr<MetricsLog> MetricsLog::Resume(const std::string& path,
                                              int64_t step,
                                              const Json& manifest) {
  const absl::StatusOr<std::string> old = ReadFile(path);
  if (absl::IsNotFound(old.status())) return Create(path, manifest);
  if (!old.ok()) return old.status();

  std::string kept;
  int64_t last_validation = -1;
  for (const absl::string_view text : absl::StrSplit(*old, '\n')) {
    const Json json =
        Json::parse(text.begin(), text.end(), nullptr, /*exceptions=*/false);
    // A line cut short by a kill is of a step that will be done again.
    if (!json.is_object() || StepOf(json) > step) continue;
    if (IsKind(json, "validation")) last_validation = StepOf(json);
    absl::StrAppend(&kept, text, "\n");
  }
  kept +=
      Line(kept.empty() ? ManifestLine(manifest) : ResumeLine(step, manifest));
  ASSIGN_OR_RETURN(MetricsLog log, Open(path, kept));
  log.last_validation_ = last_validation;
  return log;
}

absl::StatusOr<MetricsLog> MetricsLog::Open(const std::string& path,
                                            absl::string_view contents) {
  RETURN_IF_ERROR(WriteFileAtomically(path, contents));
  const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd < 0) return FileError(errno, "open", path);
  MetricsLog log(path, fd);
  log.num_bytes_ = static_cast<int64_t>(contents.size());
  return log;
}

MetricsLog::MetricsLog(MetricsLog&& other) noexcept {
  *this = std::move(other);
}

MetricsLog& MetricsLog::operator=(MetricsLog&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(num_bytes_, other.num_bytes_);
  std::swap(last_validation_, other.last_validation_);
  return *this;
}

MetricsLog::~MetricsLog() {
  if (fd_ >= 0) close(fd_);
}

absl::Status MetricsLog::Append(const Json& json) {
  const std::string line = Line(json);
  absl::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t put = write(fd_, rest.data(), rest.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      const absl::Status status = FileError(errno, "write", path_);
      // Takes back the part of the line; if that fails too, Resume() drops it.
      if (ftruncate(fd_, num_bytes_) != 0) return status;
      return status;
    }
    rest.remove_prefix(put);
  }
  num_bytes_ += static_cast<int64_t>(line.size());
  if (IsKind(json, "validation")) last_validation_ = StepOf(json);
  return absl::OkStatus();
}

}  // namespace strata
