#include "sim/report/chrome_trace.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/pipeline_timeline.h"
#include "sim/workload/training_step.h"

namespace strata::sim {
namespace {

constexpr double kPicosecondsPerMicrosecond = 1e6;

absl::string_view ShortName(PipelineItem::Kind kind) {
  switch (kind) {
    case PipelineItem::Kind::kForward:
      return "F";
    case PipelineItem::Kind::kBackward:
      return "B";
    case PipelineItem::Kind::kInputGrad:
      return "I";
    case PipelineItem::Kind::kWeightGrad:
      return "W";
    case PipelineItem::Kind::kForwardBackward:
      return "F+B";
  }
  return "";
}

// To whole nanoseconds, begin and end each: viewers count in them, and a slice
// that ends a rounding after the next begins would hold it.
void AppendSlice(absl::string_view name, size_t device, double start_us,
                 double end_us, absl::string_view arguments,
                 std::string& text) {
  const double start = std::round(start_us * 1e3) / 1e3;
  const double length = std::round(end_us * 1e3) / 1e3 - start;
  absl::StrAppendFormat(&text,
                        ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":0,\"name\":\"%s\","
                        "\"ts\":%.3f,\"dur\":%.3f,\"args\":{%s}}",
                        device, name, start, std::max(0.0, length), arguments);
}

}  // namespace

std::string ChromeTrace(const StepResult& result) {
  std::string text =
      "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
      "{\"ph\":\"M\",\"pid\":0,\"name\":\"process_labels\","
      "\"args\":{\"labels\":\"strata simulate\"}}";
  for (size_t d = 0; d < result.timeline.items.size(); ++d) {
    absl::StrAppendFormat(&text,
                          ",\n{\"ph\":\"M\",\"pid\":%d,\"name\":"
                          "\"process_name\",\"args\":{\"name\":\"stage %d\"}}",
                          d, d);
    for (size_t i = 0; i < result.timeline.items[d].size(); ++i) {
      const TimelineItem& time = result.timeline.items[d][i];
      const PipelineItem& item = result.schedule.items[d][i];
      std::string arguments = absl::StrFormat("\"micro_batch\":%d,\"chunk\":%d",
                                              item.micro_batch, item.chunk);
      if (item.kind == PipelineItem::Kind::kForwardBackward) {
        absl::StrAppendFormat(&arguments,
                              ",\"backward_micro_batch\":%d,"
                              "\"backward_chunk\":%d",
                              item.backward_micro_batch, item.backward_chunk);
      }
      AppendSlice(absl::StrCat(ShortName(item.kind), item.micro_batch), d,
                  time.start / kPicosecondsPerMicrosecond,
                  time.end / kPicosecondsPerMicrosecond, arguments, text);
    }
  }
  const double pipeline_us = result.timeline.total / kPicosecondsPerMicrosecond;
  const double rest_us = result.seconds * 1e6 - pipeline_us;
  for (size_t d = 0; d < result.timeline.items.size() && rest_us > 0; ++d) {
    AppendSlice("gradients, weights, optimizer", d, pipeline_us,
                result.seconds * 1e6, "", text);
  }
  absl::StrAppend(&text, "\n]}\n");
  return text;
}

}  // namespace strata::sim
