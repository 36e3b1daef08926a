// A grammar over bytes: what a constrained answer may be.
//
//   rule     a little automaton: states, edges on ranges of bytes, edges on
//            nothing, and calls of rules, which may be recursive
//   text     is derived if it leads from the root's start to a final state
//
// Built once, state by state; each building call returns the state behind it.
//
//   ByteGrammar g;
//   const int rule = g.AddRule("answer");
//   g.SetFinal(g.Text(g.start(rule), "yes"));
//   RETURN_IF_ERROR(g.Finish(rule));
//   GrammarAutomaton automaton(...);     // serving/schema/grammar_automaton.h

#ifndef SERVING_SCHEMA_BYTE_GRAMMAR_H_
#define SERVING_SCHEMA_BYTE_GRAMMAR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace strata {

class ByteGrammar {
 public:
  struct Edge {
    uint8_t low = 0, high = 0;  // Both included.
    int32_t to = 0;
  };
  struct Call {
    int32_t rule = 0;  // Once finished, the rule's start state.
    int32_t to = 0;    // Where it goes on.
  };
  struct State {
    std::vector<Edge> edges;
    std::vector<Call> calls;
    std::vector<int32_t> jumps;
    bool final = false;
  };

  // A rule with a start state; `path` says in messages where it is from.
  int32_t AddRule(std::string path);
  int32_t start(int32_t rule) const { return rules_[rule].start; }

  int32_t AddState();
  int32_t Range(int32_t from, uint8_t low, uint8_t high);
  void Range(int32_t from, uint8_t low, uint8_t high, int32_t to);
  int32_t Text(int32_t from, absl::string_view text);
  int32_t CallRule(int32_t from, int32_t rule);
  void Jump(int32_t from, int32_t to) { states_[from].jumps.push_back(to); }
  void SetFinal(int32_t state) { states_[state].final = true; }
  // That nothing satisfies a rule, and why.
  void SetImpossible(int32_t rule, std::string reason);

  // Removes what leads nowhere, so that every beginning that is left can be
  // brought to an end.
  //
  // Returns INVALID_ARGUMENT, naming a path and the reason, if the root derives
  // nothing.
  absl::Status Finish(int32_t root);

  const State& state(int32_t id) const { return states_[id]; }
  int64_t num_states() const { return static_cast<int64_t>(states_.size()); }
  int32_t root_start() const { return rules_[root_].start; }

 private:
  struct Rule {
    int32_t start = 0;
    std::string path;
    std::string impossible;  // Why, or empty.
  };

  std::vector<State> states_;
  std::vector<Rule> rules_;
  int32_t root_ = -1;
};

}  // namespace strata

#endif  // SERVING_SCHEMA_BYTE_GRAMMAR_H_
