#include "serving/schema/token_masks.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "serving/schema/byte_grammar.h"
#include "serving/schema/grammar_automaton.h"
#include "serving/schema/json_schema.h"

namespace strata {
namespace {

using StateId = GrammarAutomaton::StateId;

// What the states and masks of one grammar may take.
constexpr int64_t kMaxBytes = int64_t{32} << 20;

int64_t MaxStates(const TokenVocabulary& vocabulary) {
  constexpr int64_t kBytesOfState = 2048;
  return kMaxBytes / (kBytesOfState + vocabulary.size() / 8);
}

// An automaton and the masks of its states.
class SharedMasks {
 public:
  SharedMasks(std::shared_ptr<const ByteGrammar> grammar,
              std::shared_ptr<const TokenVocabulary> vocabulary)
      : grammar_(std::move(grammar)),
        vocabulary_(std::move(vocabulary)),
        automaton_(grammar_, MaxStates(*vocabulary_)) {}

  const TokenVocabulary& vocabulary() const { return *vocabulary_; }

  // Another, which knows the state alone.
  std::pair<std::shared_ptr<SharedMasks>, StateId> Renewed(StateId state) {
    auto fresh = std::make_shared<SharedMasks>(grammar_, vocabulary_);
    absl::MutexLock lock(&mutex_);
    absl::MutexLock fresh_lock(&fresh->mutex_);
    const StateId id = fresh->automaton_.Import(automaton_, state);
    return {fresh, id};
  }

  // Whether the next mask might not find room for the states that it needs.
  bool scarce() {
    absl::MutexLock lock(&mutex_);
    return automaton_.num_states() > MaxStates(*vocabulary_) / 2;
  }

  StateId Next(StateId state, absl::string_view bytes) {
    absl::MutexLock lock(&mutex_);
    for (const char c : bytes) {
      if (state == GrammarAutomaton::kDead) break;
      state = automaton_.Next(state, static_cast<uint8_t>(c));
    }
    return state;
  }

  bool Ended(StateId state) {
    absl::MutexLock lock(&mutex_);
    return automaton_.IsFinal(state) && !automaton_.GoesOn(state);
  }

  bool Apply(StateId state, absl::Span<float> logits) {
    absl::MutexLock lock(&mutex_);
    const std::vector<uint64_t>& mask = MaskOf(state);
    bool any = false;
    const int64_t size = std::min<int64_t>(vocabulary_->size(), logits.size());
    for (int64_t i = 0; i < size; ++i) {
      const bool allowed = (mask[i / 64] >> (i % 64) & 1) != 0;
      any = any || allowed;
      if (!allowed) logits[i] = -std::numeric_limits<float>::infinity();
    }
    // Rows of the model beyond the tokenizer's ids are no tokens.
    std::fill(logits.begin() + size, logits.end(),
              -std::numeric_limits<float>::infinity());
    return any;
  }

 private:
  const std::vector<uint64_t>& MaskOf(StateId state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (static_cast<size_t>(state) >= masks_.size()) masks_.resize(state + 1);
    std::vector<uint64_t>& mask = masks_[state];
    if (!mask.empty()) return mask;
    mask.resize((vocabulary_->size() + 63) / 64);
    const auto allow = [&](int32_t token) {
      mask[token / 64] |= uint64_t{1} << (token % 64);
    };
    // States along the bytes of the token at hand; alive[d] is that after d.
    std::vector<StateId> along = {state};
    const std::vector<int32_t>& sorted = vocabulary_->sorted();
    for (size_t i = 0; i < sorted.size(); ++i) {
      const absl::string_view bytes = vocabulary_->bytes(sorted[i]);
      const auto shared = static_cast<size_t>(vocabulary_->shared()[i]);
      if (along.size() > shared + 1) along.resize(shared + 1);
      while (along.size() <= bytes.size() &&
             along.back() != GrammarAutomaton::kDead) {
        const auto byte = static_cast<uint8_t>(bytes[along.size() - 1]);
        along.push_back(automaton_.Next(along.back(), byte));
      }
      if (along.size() == bytes.size() + 1 &&
          along.back() != GrammarAutomaton::kDead) {
        allow(sorted[i]);
      }
    }
    if (automaton_.IsFinal(state)) {
      for (const int32_t token : vocabulary_->stop()) allow(token);
    }
    return mask;
  }

  const std::shared_ptr<const ByteGrammar> grammar_;
  const std::shared_ptr<const TokenVocabulary> vocabulary_;
  absl::Mutex mutex_;
  GrammarAutomaton automaton_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::vector<uint64_t>> masks_ ABSL_GUARDED_BY(mutex_);
};

class GrammarConstraint : public TokenConstraint {
 public:
  explicit GrammarConstraint(std::shared_ptr<SharedMasks> masks)
      : masks_(std::move(masks)) {}

  bool Mask(absl::Span<float> logits) override {
    RenewIfScarce();
    return masks_->Apply(state_, logits);
  }

  void Take(int32_t token) override {
    const StateId next =
        masks_->Next(state_, masks_->vocabulary().bytes(token));
    CHECK(next != GrammarAutomaton::kDead) << "token " << token;
    state_ = next;
  }

  bool ended() const override { return masks_->Ended(state_); }

 private:
  // Answers that went where nobody else goes leave no room for new states: this
  // one goes on in an automaton of its own.
  void RenewIfScarce() {
    if (masks_->scarce()) std::tie(masks_, state_) = masks_->Renewed(state_);
  }

  std::shared_ptr<SharedMasks> masks_;
  StateId state_ = 0;
};

}  // namespace

TokenVocabulary::TokenVocabulary(std::vector<std::string> bytes,
                                 std::vector<int32_t> stop)
    : bytes_(std::move(bytes)), stop_(std::move(stop)) {
  for (size_t i = 0; i < bytes_.size(); ++i) {
    if (!bytes_[i].empty()) sorted_.push_back(static_cast<int32_t>(i));
  }
  std::sort(sorted_.begin(), sorted_.end(), [&](int32_t a, int32_t b) {
    return bytes_[a] != bytes_[b] ? bytes_[a] < bytes_[b] : a < b;
  });
  for (size_t i = 0; i < sorted_.size(); ++i) {
    int32_t shared = 0;
    if (i > 0) {
      const std::string& a = bytes_[sorted_[i - 1]];
      const std::string& b = bytes_[sorted_[i]];
      shared = static_cast<int32_t>(
          std::mismatch(a.begin(), a.begin() + std::min(a.size(), b.size()),
                        b.begin())
              .first -
          a.begin());
    }
    shared_.push_back(shared);
  }
}

MakeTokenConstraint ConstrainTokens(
    std::shared_ptr<const ByteGrammar> grammar,
    std::shared_ptr<const TokenVocabulary> vocabulary) {
  auto masks =
      std::make_shared<SharedMasks>(std::move(grammar), std::move(vocabulary));
  return [masks = std::move(masks)] {
    return std::make_unique<GrammarConstraint>(masks);
  };
}

absl::StatusOr<MakeTokenConstraint> SchemaCache::Get(
    const nlohmann::ordered_json& schema, const std::string& path) {
  const std::string key = schema.dump();
  {
    absl::MutexLock lock(&mutex_);
    const auto it = known_.find(key);
    if (it != known_.end()) return it->second;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const ByteGrammar> grammar,
                   CompileJsonSchema(schema, path));
  MakeTokenConstraint made = ConstrainTokens(std::move(grammar), vocabulary_);
  absl::MutexLock lock(&mutex_);
  if (known_.emplace(key, made).second) order_.push_back(key);
  if (order_.size() > kMaxSchemas) {
    known_.erase(order_.front());
    order_.pop_front();
  }
  return made;
}

}  // namespace strata
