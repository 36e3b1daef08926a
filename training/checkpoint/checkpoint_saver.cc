#include "training/checkpoint/checkpoint_saver.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/mapped_file.h"
#include "core/base/sha256.h"
#include "core/base/staged_directory.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/shards/shard_index.h"
#include "core/checkpoint/weight_files.h"
#include "core/parallel/agree.h"
#include "core/parallel/communicator.h"
#include "core/tensor/tensor.h"
#include "training/checkpoint/state_parts.h"

namespace strata {
namespace {

// How often ranks that wait look whether the others are done.
constexpr auto kLook = std::chrono::milliseconds(200);
// Bytes that are written before progress is noted.
constexpr size_t kPiece = size_t{8} << 20;
// Hexadecimal digits of a sum.
constexpr size_t kSumDigits = 64;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

// What all ranks write to the files of one name.
struct FileSet {
  const char* file;  // "model.safetensors"
  std::vector<StatePart> parts;
  std::vector<int> writer;  // [parts]
};

// A file that a rank wrote, as ranks tell each other: text of a fixed length.
constexpr size_t kLengthDigits = 20;
constexpr size_t kRecord = kLengthDigits + kSumDigits;

std::string Record(const ShardIndex::File& file) {
  std::string text =
      absl::StrCat(absl::Dec(file.num_bytes, absl::kZeroPad20), file.sha256);
  text.resize(kRecord, '0');
  return text;
}

ShardIndex::File FileOf(const std::string& record) {
  return {std::stoll(record.substr(0, kLengthDigits)),
          record.substr(kLengthDigits)};
}

}  // namespace

struct CheckpointSaver::Job {
  enum State : int64_t { kWriting, kWritten, kFailed, kSaved };

  CheckpointContents contents;
  int rank = 0;
  int num_ranks = 1;
  FileSet sets[2] = {{kWeightsFile, {}, {}}, {kOptimizerFile, {}, {}}};
  std::vector<const char*> copy[2];  // [parts] of this rank's, else null.
  int64_t snapshot_bytes = 0;
  std::string staging;
  std::optional<StagedDirectory> staged;   // The first rank's.
  std::vector<ShardIndex::File> files[2];  // [ranks], the first rank's.
  ShardIndex::File written[2];             // This rank's.
  std::unique_ptr<char[]> snapshot;        // Once nobody waits for it.
  std::thread thread;
  std::chrono::steady_clock::time_point begin =
      std::chrono::steady_clock::now();
  double seconds_stopped = 0;
  std::atomic<int64_t> progress{0};  // Bytes written and summed up.

  std::mutex mutex;
  std::condition_variable changed;
  State state = kWriting;  // By mutex, as the status.
  absl::Status status;

  State Look() {
    const std::lock_guard<std::mutex> lock(mutex);
    return state;
  }
  void WaitAWhile() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait_for(lock, kLook, [this] { return state != kWriting; });
  }
  void Finish(const absl::Status& how, State then) {
    const std::lock_guard<std::mutex> lock(mutex);
    status = how;
    state = how.ok() ? then : kFailed;
    changed.notify_all();
  }
  void Join() {
    if (thread.joinable()) thread.join();
  }

  absl::Status WriteFile(int set);
  absl::Status WriteFiles();
  absl::Status Commit();
};

// This rank's file of the set, if it has anything to write there.
absl::Status CheckpointSaver::Job::WriteFile(int set) {
  const FileSet& files = sets[set];
  std::vector<TensorToWrite> tensors;
  for (size_t i = 0; i < files.parts.size(); ++i) {
    if (files.writer[i] != rank) continue;
    const StatePart& part = files.parts[i];
    const absl::string_view bytes(copy[set][i], part.num_bytes());
    tensors.push_back(
        {part.name, part.dtype, part.shape,
         [this, bytes](TensorToWrite::Append append) -> absl::Status {
           for (size_t at = 0; at < bytes.size(); at += kPiece) {
             const absl::string_view piece = bytes.substr(at, kPiece);
             RETURN_IF_ERROR(append(piece));
             progress += static_cast<int64_t>(piece.size());
           }
           return absl::OkStatus();
         }});
  }
  if (tensors.empty()) return absl::OkStatus();
  WriteOptions options;
  options.metadata[kCheckpointKey] = contents.of;
  const std::string path =
      absl::StrCat(staging, "/", ShardOf(files.file, rank, num_ranks));
  RETURN_IF_ERROR(WriteWeightsFile(path, tensors, options));
  ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::Open(path));
  Sha256 sum;
  for (size_t at = 0; at < mapped.bytes().size(); at += kPiece) {
    const absl::string_view piece = mapped.bytes().substr(at, kPiece);
    sum.Update(piece);
    progress += static_cast<int64_t>(piece.size());
  }
  written[set] = {mapped.num_bytes(), sum.HexDigest()};
  return absl::OkStatus();
}

absl::Status CheckpointSaver::Job::WriteFiles() {
  RETURN_IF_ERROR(WriteFile(0));
  return WriteFile(1);
}

// The first rank's, when all have written.
absl::Status CheckpointSaver::Job::Commit() {
  for (int set = 0; set < 2; ++set) {
    const FileSet& of = sets[set];
    ShardIndex index;
    index.checkpoint = contents.of;
    for (size_t i = 0; i < of.parts.size(); ++i) {
      index.file_of[of.parts[i].name] =
          ShardOf(of.file, of.writer[i], num_ranks);
      index.total_size += of.parts[i].num_bytes();
    }
    for (int r = 0; r < num_ranks; ++r) {
      if (files[set][r].num_bytes == 0) continue;  // It had nothing to write.
      index.files[ShardOf(of.file, r, num_ranks)] = files[set][r];
    }
    RETURN_IF_ERROR(staged->WriteFile(IndexOf(of.file), ToText(index)));
    if (set == 0) contents.manifest["weights_hash"] = ListedHash(index);
  }
  for (const auto& [name, text] : contents.texts) {
    RETURN_IF_ERROR(staged->WriteFile(name, text));
  }
  RETURN_IF_ERROR(
      staged->WriteFile(kManifestFile, contents.manifest.dump(2) + "\n"));
  RETURN_IF_ERROR(staged->Commit());
  if (contents.saved) contents.saved();
  return absl::OkStatus();
}

CheckpointSaver::CheckpointSaver(Communicator& ranks) : ranks_(ranks) {}

CheckpointSaver::~CheckpointSaver() {
  if (job_ != nullptr) job_->Join();
}

absl::Status CheckpointSaver::Begin(CheckpointContents contents,
                                    const StateStore& state,
                                    absl::Span<const Shard> shards) {
  CHECK(job_ == nullptr) << "a checkpoint is being saved";
  const auto job = std::make_shared<Job>();
  job->rank = ranks_.rank();
  job->num_ranks = ranks_.size();
  job->contents = std::move(contents);
  const std::vector<std::string>* const names[] = {&job->contents.model,
                                                   &job->contents.optimizer};
  for (int set = 0; set < 2; ++set) {
    FileSet& files = job->sets[set];
    files.parts = PartsOf(*job->contents.whole, *names[set]);
    ASSIGN_OR_RETURN(files.writer,
                     WritersOf(state, shards, files.parts, ranks_));
  }
  RETURN_IF_ERROR(Stage(*job));
  if (job->state == Job::kWriting) {
    const absl::Status copied = Copy(state, shards, *job);
    if (!copied.ok()) job->Finish(copied, Job::kWritten);
  }
  if (job->state == Job::kWriting) {
    job->thread = std::thread([job, before = before_write_] {
      const absl::Status ready = before ? before() : absl::OkStatus();
      job->Finish(ready.ok() ? job->WriteFiles() : ready, Job::kWritten);
    });
  }
  job->seconds_stopped = SecondsSince(job->begin);
  job_ = job;
  return absl::OkStatus();
}

// The folder to write to, made by the first rank.
absl::Status CheckpointSaver::Stage(Job& job) {
  absl::Status made;
  if (job.rank == 0) {
    absl::StatusOr<StagedDirectory> staged =
        StagedDirectory::Create(job.contents.path);
    made = staged.status();
    if (staged.ok()) job.staged = *std::move(staged);
  }
  ASSIGN_OR_RETURN(const Agreement agreement, Agree(made, ranks_));
  if (!agreement.status.ok()) {
    job.Finish(agreement.status, Job::kWritten);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(
      job.staging,
      TextOf(0, job.staged ? job.staged->path() : std::string(), ranks_));
  return absl::OkStatus();
}

// Copies what this rank writes, one part behind another.
absl::Status CheckpointSaver::Copy(const StateStore& state,
                                   absl::Span<const Shard> shards, Job& job) {
  int64_t bytes = 0;
  for (const FileSet& files : job.sets) {
    for (size_t i = 0; i < files.parts.size(); ++i) {
      if (files.writer[i] == job.rank) bytes += files.parts[i].num_bytes();
    }
  }
  job.snapshot_bytes = bytes;
  if (bytes > snapshot_bytes_) {
    snapshot_.reset();
    snapshot_.reset(new (std::nothrow) char[bytes]);
    snapshot_bytes_ = snapshot_ == nullptr ? 0 : bytes;
    if (snapshot_ == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no memory for a copy of the state to save, ", bytes, " bytes"));
    }
  }
  char* to = snapshot_.get();
  for (int set = 0; set < 2; ++set) {
    const FileSet& files = job.sets[set];
    job.copy[set].resize(files.parts.size());
    for (size_t i = 0; i < files.parts.size(); ++i) {
      if (files.writer[i] != job.rank) continue;
      const StatePart& part = files.parts[i];
      state.Get(part.state);  // Where kernels have it, to the host.
      const std::optional<TensorView> view = FindPart(state, shards, part);
      CHECK(view.has_value() && view->num_bytes() == part.num_bytes())
          << part.name;
      job.copy[set][i] = to;
      if (part.num_bytes() > 0) std::memcpy(to, view->data, part.num_bytes());
      to += part.num_bytes();
    }
  }
  return absl::OkStatus();
}

// Tells the first rank what each wrote, and lets it make a checkpoint of it.
absl::Status CheckpointSaver::Collect(Job& job) {
  for (int set = 0; set < 2; ++set) {
    const std::string record = Record(job.written[set]);
    std::vector<uint8_t> mine(record.begin(), record.end());
    std::vector<uint8_t> all(kRecord * job.num_ranks);
    const std::vector<int64_t> counts(job.num_ranks, kRecord);
    RETURN_IF_ERROR(ranks_.AllGather(PayloadOf(absl::MakeSpan(mine)), counts,
                                     PayloadOf(absl::MakeSpan(all))));
    for (int r = 0; r < job.num_ranks; ++r) {
      const auto begin = all.begin() + static_cast<int64_t>(kRecord) * r;
      job.files[set].push_back(
          FileOf(std::string(begin, begin + static_cast<int64_t>(kRecord))));
    }
  }
  if (job.rank > 0) return absl::OkStatus();
  job.Join();
  job.Finish(absl::OkStatus(), Job::kWriting);
  job.thread =
      std::thread([job = job_] { job->Finish(job->Commit(), Job::kSaved); });
  return absl::OkStatus();
}

absl::StatusOr<std::optional<SaveReport>> CheckpointSaver::Poll(bool wait) {
  if (job_ == nullptr) return std::nullopt;
  const auto begin = std::chrono::steady_clock::now();
  absl::Time got_on = absl::Now();
  int64_t last_progress = -1;
  while (true) {
    if (wait) job_->WaitAWhile();
    // [ranks, 2]: states, and how far each has got.
    int64_t mine[] = {job_->Look(), job_->progress};
    std::vector<int64_t> all(2 * job_->num_ranks);
    const std::vector<int64_t> counts(job_->num_ranks, 2);
    RETURN_IF_ERROR(ranks_.AllGather(PayloadOf(absl::MakeSpan(mine)), counts,
                                     PayloadOf(absl::MakeSpan(all))));
    bool writes = false, failed = false;
    int64_t progress = 0;
    for (int r = 0; r < job_->num_ranks; ++r) {
      writes |= all[2 * r] == Job::kWriting;
      failed |= all[2 * r] == Job::kFailed;
      progress += all[2 * r + 1];
    }
    if (!writes && (failed || all[0] == Job::kSaved)) {
      job_->seconds_stopped += SecondsSince(begin);
      return End();
    }
    if (!writes) RETURN_IF_ERROR(Collect(*job_));
    if (!wait) {
      job_->seconds_stopped += SecondsSince(begin);
      return std::nullopt;
    }
    if (!writes || progress != last_progress) got_on = absl::Now();
    last_progress = progress;
    // By the first rank's clock, so that all give up together.
    int32_t hangs = absl::Now() - got_on > patience_ ? 1 : 0;
    RETURN_IF_ERROR(
        ranks_.Broadcast(PayloadOf(absl::MakeSpan(&hangs, 1)), /*root=*/0));
    if (hangs != 0) return GiveUp();
  }
}

// What waits for a disk that hangs is left to itself.
absl::Status CheckpointSaver::GiveUp() {
  const std::string path = job_->contents.path;
  if (job_->thread.joinable()) job_->thread.detach();
  job_->snapshot = std::move(snapshot_);
  snapshot_bytes_ = 0;
  job_ = nullptr;
  return absl::DeadlineExceededError(
      absl::StrCat("the checkpoint ", path, " has not got on for ",
                   absl::FormatDuration(patience_)));
}

absl::StatusOr<std::optional<SaveReport>> CheckpointSaver::End() {
  const std::shared_ptr<Job> job = std::exchange(job_, nullptr);
  job->Join();
  ASSIGN_OR_RETURN(const Agreement agreement, Agree(job->status, ranks_));
  SaveReport report;
  report.path = job->contents.path;
  report.status = agreement.status;
  report.seconds = SecondsSince(job->begin);
  report.seconds_stopped = job->seconds_stopped;
  report.snapshot_bytes = job->snapshot_bytes;
  return report;
}

}  // namespace strata
