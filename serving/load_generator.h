// Requests as users send them: at random times, of random lengths.
//
//   closed loop   each of `clients` sends its next request when its last ends
//   open loop     requests come at random (exponential gaps), whether or not
//                 those before have ended; they go on coming until the last of
//                 those that are measured has ended, so none is left out
//
// Prompt and answer lengths are log-normal, as those of chat services are said
// to be; tokens are random, so that no prompt is the beginning of another.

#ifndef SERVING_LOAD_GENERATOR_H_
#define SERVING_LOAD_GENERATOR_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "serving/engine/engine.h"

namespace strata {

struct LoadOptions {
  double median_prompt = 300;  // Tokens.
  double median_output = 150;
  double sigma = 0.5;  // Of the lengths' logarithms.
  uint64_t seed = 0;   // Another seed, other prompts.
  // What is measured: by a closed loop what is done meanwhile, by an open one
  // the requests sent meanwhile.
  absl::Duration duration = absl::Seconds(20);
  // Before that. The clients of a closed loop start with prompts at once, the
  // first of an open one finds nobody there: it takes a few answers' time until
  // work is mixed as it stays.
  absl::Duration warm_up = absl::ZeroDuration();
};

// A request that ended by itself.
struct RequestTimes {
  int64_t prompt = 0;  // Tokens.
  int64_t output = 0;
  double first_token = 0;  // Seconds from Submit.
  double longest_gap = 0;  // Between two tokens, in seconds.
  double seconds = 0;      // To its end.
};

struct LoadResult {
  // Of a closed loop all that ended before it did; of an open one all that are
  // measured and were not refused.
  std::vector<RequestTimes> requests;
  int64_t num_sent = 0;       // Measured or not.
  int64_t num_refused = 0;    // Of those measured.
  double seconds = 0;         // That were measured.
  int64_t prompt_tokens = 0;  // Computed meanwhile, by any request.
  int64_t output_tokens = 0;
};

LoadResult RunClosedLoop(Engine& engine, int clients,
                         const LoadOptions& options);
LoadResult RunOpenLoop(Engine& engine, double requests_per_second,
                       const LoadOptions& options);

// The prompt and answer lengths of request `index`; together they fit into
// `max_tokens`, and each is at least 1.
struct Lengths {
  int64_t prompt = 0;
  int64_t output = 0;
};
Lengths DrawLengths(const LoadOptions& options, int64_t max_tokens,
                    int64_t index);

// The value that a share `p` of `values` (not empty) does not exceed.
double Percentile(std::vector<double> values, double p);

// Seconds to the first token of a prompt with nobody else there.
double UnloadedFirstToken(Engine& engine, int64_t prompt, uint64_t seed);

}  // namespace strata

#endif  // SERVING_LOAD_GENERATOR_H_
