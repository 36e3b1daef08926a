// Makes what programs run on, where who compiles them does not choose it.

#ifndef CORE_RUNTIME_BACKEND_FACTORY_H_
#define CORE_RUNTIME_BACKEND_FACTORY_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "core/runtime/backend.h"

namespace strata {

// Its errors are those of creation.
using BackendFactory =
    std::function<absl::StatusOr<std::unique_ptr<Backend>>()>;

}  // namespace strata

#endif  // CORE_RUNTIME_BACKEND_FACTORY_H_
