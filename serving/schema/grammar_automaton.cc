#include "serving/schema/grammar_automaton.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "serving/schema/byte_grammar.h"

namespace strata {
namespace {

// Of one state; a grammar of nested alternatives that begin alike may have
// very many.
constexpr size_t kMaxStacks = 2000;

// Whether a rule that comes here has ended: it need not be remembered.
bool OnlyEnds(const ByteGrammar::State& s) {
  return s.final && s.edges.empty() && s.calls.empty() && s.jumps.empty();
}

}  // namespace

GrammarAutomaton::GrammarAutomaton(std::shared_ptr<const ByteGrammar> grammar,
                                   int64_t max_states)
    : grammar_(std::move(grammar)), max_states_(max_states) {
  Intern({{grammar_->root_start()}});
}

GrammarAutomaton::StateId GrammarAutomaton::Find(Stacks stacks, bool final) {
  if (stacks.empty() && !final) return kDead;
  const auto key = std::make_pair(std::move(stacks), final);
  const auto it = ids_.find(key);
  if (it != ids_.end()) return it->second;
  if (full()) return kDead;
  const auto id = static_cast<StateId>(states_.size());
  State state;
  state.stacks = key.first;
  state.final = final;
  state.next.fill(kUnknown);
  states_.push_back(std::move(state));
  ids_[key] = id;
  return id;
}

GrammarAutomaton::StateId GrammarAutomaton::Intern(Stacks stacks) {
  std::set<Stack> seen(stacks.begin(), stacks.end());
  std::set<Stack> waiting;  // With an edge.
  bool final = false;
  const auto add = [&](Stack stack) {
    if (stack.size() > kMaxGrammarDepth || seen.size() >= kMaxStacks) return;
    if (seen.insert(stack).second) stacks.push_back(std::move(stack));
  };
  while (!stacks.empty()) {
    const Stack stack = std::move(stacks.back());
    stacks.pop_back();
    const ByteGrammar::State& s = grammar_->state(stack.back());
    if (!s.edges.empty()) waiting.insert(stack);
    if (s.final) {
      if (stack.size() == 1) {
        final = true;
      } else {
        add(Stack(stack.begin(), stack.end() - 1));
      }
    }
    for (const int32_t to : s.jumps) {
      Stack next = stack;
      next.back() = to;
      add(std::move(next));
    }
    for (const ByteGrammar::Call& call : s.calls) {
      Stack next = stack;
      if (OnlyEnds(grammar_->state(call.to))) {
        next.back() = call.rule;
      } else {
        next.back() = call.to;
        next.push_back(call.rule);
      }
      add(std::move(next));
    }
  }
  return Find({waiting.begin(), waiting.end()}, final);
}

GrammarAutomaton::StateId GrammarAutomaton::Next(StateId state, uint8_t byte) {
  const StateId known = states_[state].next[byte];
  if (known != kUnknown) return known;
  Stacks stacks;
  for (const Stack& stack : states_[state].stacks) {
    for (const ByteGrammar::Edge& edge : grammar_->state(stack.back()).edges) {
      if (byte < edge.low || byte > edge.high) continue;
      stacks.push_back(stack);
      stacks.back().back() = edge.to;
    }
  }
  std::sort(stacks.begin(), stacks.end());
  stacks.erase(std::unique(stacks.begin(), stacks.end()), stacks.end());
  const StateId next = stacks.empty() ? kDead : Intern(std::move(stacks));
  states_[state].next[byte] = next;
  return next;
}

GrammarAutomaton::StateId GrammarAutomaton::Import(
    const GrammarAutomaton& other, StateId state) {
  const State& s = other.states_[state];
  return Find(s.stacks, s.final);
}

}  // namespace strata
