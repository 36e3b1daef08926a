// What an answer may be, for who draws its tokens one by one.

#ifndef SERVING_ENGINE_TOKEN_CONSTRAINT_H_
#define SERVING_ENGINE_TOKEN_CONSTRAINT_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/types/span.h"

namespace strata {

// Of one answer; one thread at a time.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  // Sets the logits [vocab] of tokens that must not come next to -infinity.
  // False if none may come.
  virtual bool Mask(absl::Span<float> logits) = 0;

  // The answer goes on with `token`, which Mask allowed.
  virtual void Take(int32_t token) = 0;

  // Whether the answer is whole and nothing may follow, not even a stop token
  // being needed.
  virtual bool ended() const = 0;
};

// Makes the constraint of an answer from its beginning. For several threads.
using MakeTokenConstraint = std::function<std::unique_ptr<TokenConstraint>()>;

}  // namespace strata

#endif  // SERVING_ENGINE_TOKEN_CONSTRAINT_H_
