// RETURN_IF_ERROR and ASSIGN_OR_RETURN, which the Abseil we build with lacks.

#ifndef CORE_BASE_STATUS_MACROS_H_
#define CORE_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Evaluates an absl::Status; returns it from this function unless it is OK.
//
//   RETURN_IF_ERROR(trace.Validate());
#define RETURN_IF_ERROR(expr)                                     \
  do {                                                            \
    /* A name that no member has, or `expr` would read itself. */ \
    if (absl::Status status_macros_status_ = (expr);              \
        !status_macros_status_.ok()) {                            \
      return status_macros_status_;                               \
    }                                                             \
  } while (false)

// Evaluates an absl::StatusOr; moves its value into `lhs`, or returns its
// status from this function. Expands to several statements, so brace it after
// an `if`.
//
//   ASSIGN_OR_RETURN(const Routing routing, Route(config, logits));
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL_(STATUS_MACROS_CAT_(statusor_, __LINE__), lhs, expr)

#define ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expr) \
  auto statusor = (expr);                           \
  if (!statusor.ok()) {                             \
    return std::move(statusor).status();            \
  }                                                 \
  lhs = *std::move(statusor)

#define STATUS_MACROS_CAT_(a, b) STATUS_MACROS_CAT_IMPL_(a, b)
#define STATUS_MACROS_CAT_IMPL_(a, b) a##b

#endif  // CORE_BASE_STATUS_MACROS_H_
