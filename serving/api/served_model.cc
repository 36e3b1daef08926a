#include "serving/api/served_model.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace strata {
namespace {

std::shared_ptr<const TokenVocabulary> VocabularyOf(const TextCodec& codec,
                                                    int64_t size) {
  std::vector<std::string> bytes;
  for (int32_t token = 0; token < size; ++token) {
    bytes.push_back(codec.Bytes(token));
  }
  return std::make_shared<TokenVocabulary>(std::move(bytes), codec.stop_ids());
}

}  // namespace

ServedModel::ServedModel(const TextCodec& text, Engine& runs, std::string id,
                         std::shared_ptr<void> owns)
    : owner(std::move(owns)),
      codec(text),
      engine(runs),
      version(std::move(id)),
      schemas(VocabularyOf(text, runs.config().vocab_size())) {}

}  // namespace strata
