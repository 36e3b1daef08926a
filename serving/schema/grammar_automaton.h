// A byte grammar as a deterministic automaton, whose states are made when a
// text first comes to them.
//
// A state is a set of stacks: where in its rule a text may be, and where each
// rule that called it goes on. Rules may be recursive, so there may be no end
// of states; there are at most `max_states`, and stacks no deeper than
// kMaxGrammarDepth. What is beyond is refused, so that an answer stays one that
// the grammar derives.

#ifndef SERVING_SCHEMA_GRAMMAR_AUTOMATON_H_
#define SERVING_SCHEMA_GRAMMAR_AUTOMATON_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "serving/schema/byte_grammar.h"

namespace strata {

inline constexpr size_t kMaxGrammarDepth = 200;

// Not for several threads.
class GrammarAutomaton {
 public:
  using StateId = int32_t;
  static constexpr StateId kDead = -1;  // The text is not derived.

  // `grammar` must be finished.
  GrammarAutomaton(std::shared_ptr<const ByteGrammar> grammar,
                   int64_t max_states);

  StateId start() const { return 0; }
  StateId Next(StateId state, uint8_t byte);

  // Whether the text so far is one that the grammar derives, and whether it is
  // the beginning of a longer one.
  bool IsFinal(StateId state) const { return states_[state].final; }
  bool GoesOn(StateId state) const { return !states_[state].stacks.empty(); }

  int64_t num_states() const { return static_cast<int64_t>(states_.size()); }
  bool full() const { return num_states() >= max_states_; }

  // The state of another automaton of the same grammar, in this one, which must
  // not be full.
  StateId Import(const GrammarAutomaton& other, StateId state);

 private:
  using Stack = std::vector<int32_t>;  // Grammar states, the current one last.
  using Stacks = std::vector<Stack>;   // In order, each once.

  struct State {
    Stacks stacks;  // Those whose current state has an edge.
    bool final = false;
    std::array<StateId, 256> next;  // kUnknown, where nobody asked yet.
  };
  static constexpr StateId kUnknown = -2;

  // The state of these stacks and of all that they come to without a byte.
  StateId Intern(Stacks stacks);
  StateId Find(Stacks stacks, bool final);

  const std::shared_ptr<const ByteGrammar> grammar_;
  const int64_t max_states_;
  std::vector<State> states_;
  absl::flat_hash_map<std::pair<Stacks, bool>, StateId> ids_;
};

}  // namespace strata

#endif  // SERVING_SCHEMA_GRAMMAR_AUTOMATON_H_
