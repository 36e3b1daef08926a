// Pipeline schedules: what each device of a pipeline runs, in which order.
//
//   p devices, m micro-batches, v chunks of layers a device
//     |
//     v
//   device d:  F0 F1 F2 B0 F3 B1 ...      its items, in order
//
// A micro-batch passes `num_stages` stages forward, then backward. A stage is
// one chunk of layers on one device:
//
//   schedule             stages  device of stage s           chunks a device
//   GPipe, 1F1B, ZB-*    p       s                           1
//   interleaved 1F1B     p v     s mod p, chunk s / p        v
//   DualPipe             p       s, chunk 0, for the first   2, a copy of two
//                                half of the micro-batches;  stages' weights
//                                p-1-s, chunk 1, for the     each
//                                second half
//   DualPipeV            2 p     s, chunk 0; 2p-1-s, chunk 1 2
//
// Bubble, the time a device idles, for forward F, backward B = I + W (input and
// weight gradients), an overlapped pair FB; all of one chunk of a stage that is
// 1/v of a device's layers. Activations: the most that a device holds, in
// micro-batches of its layers, each held from its forward to its backward.
//
//   GPipe         (p - 1)(F + B)              m
//   1F1B          (p - 1)(F + B)              p
//   interleaved   (p - 1)(F + B), F, B of a   p + (p - 1) / v
//                 chunk: 1/v of a device's
//   ZB-H1, ZB1P   (p - 1)(F + I - W)          p, of which an activation that
//                                             waits for W alone holds less
//   DualPipe      (p/2 - 1)(FB + B - 3 W)     p + 1 stages
//   DualPipeV     (p - 1)(FB + B - 3 W)       2 p + 1 stages
//
// Sources: Narayanan et al., SC'21 (interleaved); Qi et al., "Zero Bubble
// Pipeline Parallelism" (ZB-*); DeepSeek-V3's report and its DualPipe page
// (DualPipe's step counts). The zero-bubble rows hold for F, I >= W, DualPipe's
// for F = I >= W: docs/simulator.md says why, and what holds otherwise.
//
// Pure functions. All but ZB1P are independent of durations. ZB1P has 1F1B's
// order of forwards and input gradients; its weight gradients go where a device
// would wait (at all; or as long as one takes) or lag as in ZB-H1, whichever of
// the three ends first for the durations given.

#ifndef CORE_PARALLEL_PIPELINE_SCHEDULE_H_
#define CORE_PARALLEL_PIPELINE_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

enum class PipelineKind {
  kGPipe,
  k1F1B,
  kInterleaved,
  kZbH1,
  kZb1p,
  kDualPipe,
  kDualPipeV,
};

// "gpipe", "1f1b", "interleaved", "zb-h1", "zb1p", "dualpipe", "dualpipev".
absl::string_view Name(PipelineKind kind);

// Returns INVALID_ARGUMENT, with the names there are, for any other name.
absl::StatusOr<PipelineKind> ParsePipelineKind(absl::string_view name);

struct PipelineItem {
  enum class Kind : uint8_t {
    kForward,
    kBackward,         // Input and weight gradients at once.
    kInputGrad,        // What the stage before waits for,
    kWeightGrad,       // and what nobody waits for.
    kForwardBackward,  // A forward that overlaps a backward of another
                       // micro-batch.
  };
  Kind kind = Kind::kForward;
  int micro_batch = 0;
  int chunk = 0;
  // Of a kForwardBackward's backward half; -1 otherwise.
  int backward_micro_batch = -1;
  int backward_chunk = -1;

  bool has_forward() const {
    return kind == Kind::kForward || kind == Kind::kForwardBackward;
  }
  // Whether the gradient of the stage's input comes out.
  bool has_input_grad() const {
    return kind != Kind::kForward && kind != Kind::kWeightGrad;
  }
  bool has_weight_grad() const {
    return kind != Kind::kForward && kind != Kind::kInputGrad;
  }
};

bool operator==(const PipelineItem& a, const PipelineItem& b);

// "forward of micro-batch 3, chunk 0"
std::string ToString(const PipelineItem& item);

struct PipelineShape {
  PipelineKind kind = PipelineKind::k1F1B;
  int num_devices = 1;
  int num_micro_batches = 1;
  int num_chunks = 1;  // A device; 1 unless interleaved. DualPipes have 2, and
                       // take either.
  // What ZB1P reckons with, in any unit; the others ignore it.
  int64_t forward = 1;
  int64_t input_grad = 1;
  int64_t weight_grad = 1;
};

struct StagePlace {
  int device = 0;
  int chunk = 0;
};

struct PipelineSchedule {
  PipelineKind kind = PipelineKind::k1F1B;
  int num_devices = 1;
  int num_micro_batches = 1;
  int num_chunks = 1;                            // A device.
  int num_stages = 1;                            // That a micro-batch passes.
  std::vector<std::vector<PipelineItem>> items;  // [num_devices]

  int StageOf(int device, int chunk) const;
  // Where a micro-batch passes the stage.
  StagePlace PlaceOf(int stage, int micro_batch) const;
};

// Returns INVALID_ARGUMENT if a number is not positive, if items would be more
// than 100 million, if only interleaving is asked for chunks that it has not
// (v of more than 1 with another schedule, or of 1 with it), or if the schedule
// does not exist: interleaving wants m to be a multiple of p, DualPipe an even
// p and m of at least 2 p, DualPipeV m of at least 2 p.
absl::StatusOr<PipelineSchedule> MakePipelineSchedule(
    const PipelineShape& shape);

// What MakePipelineSchedule refuses, without making it.
absl::Status CheckPipelineShape(const PipelineShape& shape);

}  // namespace strata

#endif  // CORE_PARALLEL_PIPELINE_SCHEDULE_H_
