// Byte grammars as constraints on tokens: which tokens may come next.
//
//   vocabulary   the bytes of each token, sorted, so that tokens which begin
//                alike are tried together
//   masks        for each state of a grammar's automaton, made when an answer
//                first comes there, then kept: a set of tokens
//
// Many answers to one schema share its automaton and masks.

#ifndef SERVING_SCHEMA_TOKEN_MASKS_H_
#define SERVING_SCHEMA_TOKEN_MASKS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "nlohmann/json.hpp"
#include "serving/engine/token_constraint.h"
#include "serving/schema/byte_grammar.h"

namespace strata {

// Immutable.
class TokenVocabulary {
 public:
  // The bytes that each token stands for, [vocab]; "" for those that are no
  // text, as special ones. `stop` tokens end an answer.
  TokenVocabulary(std::vector<std::string> bytes, std::vector<int32_t> stop);

  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  absl::string_view bytes(int32_t token) const { return bytes_[token]; }
  const std::vector<int32_t>& stop() const { return stop_; }
  // Tokens with bytes in the order of these, and how many bytes each shares
  // with the one before.
  const std::vector<int32_t>& sorted() const { return sorted_; }
  const std::vector<int32_t>& shared() const { return shared_; }

 private:
  std::vector<std::string> bytes_;
  std::vector<int32_t> stop_;
  std::vector<int32_t> sorted_;
  std::vector<int32_t> shared_;
};

// Constraints whose answers are texts of `grammar`. Stop tokens may come when
// such a text is complete.
MakeTokenConstraint ConstrainTokens(
    std::shared_ptr<const ByteGrammar> grammar,
    std::shared_ptr<const TokenVocabulary> vocabulary);

// Compiles schemas, and keeps the latest. For several threads.
class SchemaCache {
 public:
  explicit SchemaCache(std::shared_ptr<const TokenVocabulary> vocabulary)
      : vocabulary_(std::move(vocabulary)) {}

  // Returns the errors of CompileJsonSchema.
  absl::StatusOr<MakeTokenConstraint> Get(const nlohmann::ordered_json& schema,
                                          const std::string& path);

 private:
  static constexpr size_t kMaxSchemas = 32;

  const std::shared_ptr<const TokenVocabulary> vocabulary_;
  absl::Mutex mutex_;
  absl::flat_hash_map<std::string, MakeTokenConstraint> known_
      ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> order_ ABSL_GUARDED_BY(mutex_);  // Oldest first.
};

}  // namespace strata

#endif  // SERVING_SCHEMA_TOKEN_MASKS_H_
