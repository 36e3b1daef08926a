// Checks of a config's fields, of which the first that fails is the error.
//
//   FieldChecks checks;
//   checks.Between("num_layers", config.num_layers(), 1, 4096);
//   checks.Want("tau", tau, tau > 0 && tau <= 1, "more than 0, at most 1");
//   return checks.status();   // "num_layers is 0; want 1 to 4096"

#ifndef CORE_MODEL_FIELD_CHECKS_H_
#define CORE_MODEL_FIELD_CHECKS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace strata {

class FieldChecks {
 public:
  template <typename Number>
  void Want(absl::string_view path, Number value, bool holds,
            absl::string_view expected) {
    if (holds || !status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat(path, " is ", value, "; want ", expected));
  }

  void Between(absl::string_view path, int64_t value, int64_t min,
               int64_t max) {
    Want(path, value, min <= value && value <= max,
         absl::StrCat(min, " to ", max));
  }

  // `divisor` may be 0 if an earlier check said so.
  void MultipleOf(absl::string_view path, int64_t value,
                  absl::string_view divisor_path, int64_t divisor) {
    if (!status_.ok()) return;
    Want(path, value, value % divisor == 0,
         absl::StrCat("a multiple of ", divisor_path, ", ", divisor));
  }

  // From 0, and small enough to multiply a few of them.
  void NotNegative(absl::string_view path, double value) {
    Want(path, value, value >= 0 && value <= 1e9, "at least 0, at most 1e9");
  }

  void ShareBelowOne(absl::string_view path, double value) {
    Want(path, value, value >= 0 && value < 1, "at least 0, less than 1");
  }

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

}  // namespace strata

#endif  // CORE_MODEL_FIELD_CHECKS_H_
