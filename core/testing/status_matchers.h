// gMock matchers for absl::Status and absl::StatusOr.
//
//   EXPECT_THAT(Route(config, logits),
//   StatusIs(absl::StatusCode::kInvalidArgument,
//                                               HasSubstr("top_k")));
//   ASSERT_THAT(trace.Validate(), IsOk());

#ifndef CORE_TESTING_STATUS_MATCHERS_H_
#define CORE_TESTING_STATUS_MATCHERS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"

namespace strata {

inline const absl::Status& GetStatus(const absl::Status& status) {
  return status;
}

template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& statusor) {
  return statusor.status();
}

MATCHER(IsOk, "") {
  *result_listener << GetStatus(arg);
  return arg.ok();
}

MATCHER_P2(StatusIs, code, message, "") {
  *result_listener << GetStatus(arg);
  return ::testing::Matches(code)(GetStatus(arg).code()) &&
         ::testing::Matches(message)(std::string(GetStatus(arg).message()));
}

}  // namespace strata

#endif  // CORE_TESTING_STATUS_MATCHERS_H_
