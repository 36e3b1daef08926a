// A version of the model, as the server serves it.

#ifndef SERVING_API_SERVED_MODEL_H_
#define SERVING_API_SERVED_MODEL_H_

#include <memory>
#include <string>

#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"
#include "serving/schema/token_masks.h"

namespace strata {

// What requests hold while they run, so that a version lives until its last
// answer is out, whichever is served then.
struct ServedModel {
  ServedModel(const TextCodec& text, Engine& runs, std::string id,
              std::shared_ptr<void> owns = nullptr);

  const std::shared_ptr<void> owner;  // Of both, and what they stand on.
  const TextCodec& codec;
  Engine& engine;
  const std::string version;  // Told with every answer; a hash of the weights.
  SchemaCache schemas;
};

}  // namespace strata

#endif  // SERVING_API_SERVED_MODEL_H_
