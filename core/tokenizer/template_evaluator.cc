#include "core/tokenizer/template_evaluator.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_functions.h"
#include "core/tokenizer/template_parser.h"
#include "core/tokenizer/template_value.h"

namespace strata {
namespace {

using Kind = TemplateNode::Kind;
using Value = TemplateValue;
using ValueOr = absl::StatusOr<TemplateValue>;

// Of nodes being evaluated, macros called from them included: some 200 bytes of
// the stack each, several times as many with a sanitizer.
constexpr int kMaxDepth = 400;

// How a statement ended.
enum class Flow { kOn, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(const TemplateTree& tree, const std::optional<absl::Time>& now,
            int64_t max_steps)
      : nodes_(tree.nodes), now_(now), budget_(max_steps) {
    scopes_.emplace_back();
  }

  absl::StatusOr<std::string> Run(
      int root, std::vector<std::pair<std::string, Value>> variables) {
    for (auto& [name, value] : variables) {
      scopes_[0][name] = std::move(value);
    }
    std::string out;
    RETURN_IF_ERROR(Execute(root, out).status());
    return out;
  }

 private:
  using Scope = absl::flat_hash_map<std::string, Value>;

  class Level {
   public:
    explicit Level(int& depth) : depth_(depth) { ++depth_; }
    ~Level() { --depth_; }

   private:
    int& depth_;
  };

  // The status with the node's line in front, unless it has a line.
  absl::Status At(const TemplateNode& node, const absl::Status& status) const {
    if (status.ok() || absl::StartsWith(status.message(), "line ")) {
      return status;
    }
    return absl::Status(status.code(), absl::StrCat("line ", node.line, ": ",
                                                    status.message()));
  }

  absl::Status Enter(const TemplateNode& node) {
    RETURN_IF_ERROR(At(node, budget_.Spend()));
    if (depth_ <= kMaxDepth) return absl::OkStatus();
    return At(node, absl::ResourceExhaustedError(absl::StrCat(
                        "the template goes deeper than ", kMaxDepth,
                        "; does a macro call itself without end?")));
  }

  // --- Statements ---

  absl::StatusOr<Flow> Execute(int index, std::string& out) {
    const Level level(depth_);
    const TemplateNode& node = nodes_[index];
    RETURN_IF_ERROR(Enter(node));
    switch (node.kind) {
      case Kind::kBlock:
        for (const int child : node.children) {
          ASSIGN_OR_RETURN(const Flow flow, Execute(child, out));
          if (flow != Flow::kOn) return flow;
        }
        return Flow::kOn;
      case Kind::kText:
        RETURN_IF_ERROR(Emit(node, node.text, out));
        return Flow::kOn;
      case Kind::kOutput: {
        ASSIGN_OR_RETURN(const Value value, Evaluate(node.children[0]));
        RETURN_IF_ERROR(At(node, budget_.Spend(value.Weight())));
        RETURN_IF_ERROR(Emit(node, value.ToString(), out));
        return Flow::kOn;
      }
      case Kind::kIf:
        return ExecuteIf(node, out);
      case Kind::kFor:
        return ExecuteFor(node, out);
      case Kind::kSet: {
        ASSIGN_OR_RETURN(Value value, Evaluate(node.children[0]));
        RETURN_IF_ERROR(node.flag ? SetField(node, std::move(value))
                                  : Assign(node, std::move(value)));
        return Flow::kOn;
      }
      case Kind::kSetBlock: {
        std::string text;
        ASSIGN_OR_RETURN(const Flow flow, Execute(node.children[0], text));
        scopes_.back()[node.names[0]] = Value(std::move(text));
        return flow;
      }
      case Kind::kMacro:
        scopes_.back()[node.text] = Value(Value::Macro{index});
        return Flow::kOn;
      case Kind::kBreak:
        return Flow::kBreak;
      default:
        return Flow::kContinue;
    }
  }

  absl::Status Emit(const TemplateNode& node, absl::string_view text,
                    std::string& out) {
    RETURN_IF_ERROR(At(node, budget_.SpendBytes(text.size())));
    if (out.size() + text.size() > TemplateBudget::kMaxBytes) {
      return At(node, absl::ResourceExhaustedError(absl::StrCat(
                          "the text is longer than ", TemplateBudget::kMaxBytes,
                          " bytes; does the template loop without end?")));
    }
    absl::StrAppend(&out, text);
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> ExecuteIf(const TemplateNode& node, std::string& out) {
    size_t i = 0;
    for (; i + 1 < node.children.size(); i += 2) {
      ASSIGN_OR_RETURN(const Value condition, Evaluate(node.children[i]));
      if (condition.Truth()) return Execute(node.children[i + 1], out);
    }
    if (node.children[i] < 0) return Flow::kOn;
    return Execute(node.children[i], out);
  }

  absl::StatusOr<Flow> ExecuteFor(const TemplateNode& node, std::string& out) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(node.children[0]));
    absl::StatusOr<Value::List> all = TemplateItems(value, budget_);
    if (!all.ok()) return At(node, all.status());
    auto items = std::make_shared<Value::List>();
    scopes_.emplace_back();
    // What is in the loop's scope goes with it on every way out.
    struct Leave {
      std::vector<Scope>& scopes;
      ~Leave() { scopes.pop_back(); }
    };
    Flow flow = Flow::kOn;
    {
      const Leave leave{scopes_};
      for (Value& item : *all) {
        if (node.children[1] >= 0) {
          RETURN_IF_ERROR(Assign(node, item));
          ASSIGN_OR_RETURN(const Value kept, Evaluate(node.children[1]));
          if (!kept.Truth()) continue;
        }
        items->push_back(std::move(item));
      }
      auto loop = std::make_shared<Value::Loop>();
      loop->items = items;
      for (size_t i = 0; i < items->size(); ++i) {
        scopes_.back().clear();
        RETURN_IF_ERROR(Assign(node, (*items)[i]));
        loop->index = static_cast<int64_t>(i);
        scopes_.back()["loop"] =
            Value(std::shared_ptr<const Value::Loop>(loop));
        ASSIGN_OR_RETURN(flow, Execute(node.children[2], out));
        if (flow == Flow::kBreak) break;
      }
    }
    if (items->empty() && node.children[3] >= 0) {
      return Execute(node.children[3], out);
    }
    return Flow::kOn;
  }

  // To the names of a for or a set, several of which take a list apart.
  absl::Status Assign(const TemplateNode& node, Value value) {
    if (node.names.size() == 1) {
      scopes_.back()[node.names[0]] = std::move(value);
      return absl::OkStatus();
    }
    if (!value.is_list() || value.list().size() != node.names.size()) {
      const std::string size =
          value.is_list() ? absl::StrCat(" of ", value.list().size()) : "";
      return At(node, absl::InvalidArgumentError(absl::StrCat(
                          "got a ", value.TypeName(), size, " for ",
                          node.names.size(), " variables")));
    }
    for (size_t i = 0; i < node.names.size(); ++i) {
      scopes_.back()[node.names[i]] = value.list()[i];
    }
    return absl::OkStatus();
  }

  absl::Status SetField(const TemplateNode& node, Value value) {
    const Value object = Find(node.names[0]);
    if (!object.is_namespace()) {
      return At(node, absl::InvalidArgumentError(absl::StrCat(
                          "\"", node.names[0], "\" is a ", object.TypeName(),
                          "; only fields of a namespace can be set")));
    }
    if (value.is_namespace() || value.is_loop()) {
      return At(node, absl::InvalidArgumentError(absl::StrCat(
                          "a namespace cannot hold a ", value.TypeName())));
    }
    object.name_space().fields.Set(node.names[1], std::move(value));
    return absl::OkStatus();
  }

  Value Find(const std::string& name) const {
    for (size_t i = scopes_.size(); i > first_scope_; --i) {
      const auto it = scopes_[i - 1].find(name);
      if (it != scopes_[i - 1].end()) return it->second;
    }
    const auto it = scopes_[0].find(name);
    return it != scopes_[0].end() ? it->second : Value::MakeUndefined(name);
  }

  // --- Expressions ---

  ValueOr Evaluate(int index) {
    const Level level(depth_);
    const TemplateNode& node = nodes_[index];
    RETURN_IF_ERROR(Enter(node));
    ValueOr value = EvaluateNode(node);
    if (!value.ok()) return At(node, value.status());
    return value;
  }

  // None where there is no child.
  ValueOr EvaluateOr(int index) {
    if (index < 0) return Value::MakeNone();
    return Evaluate(index);
  }

  ValueOr EvaluateNode(const TemplateNode& node) {
    switch (node.kind) {
      case Kind::kLiteral:
        return node.value;
      case Kind::kName: {
        Value value = Find(node.text);
        if (value.is_undefined() &&
            IsTemplateFunction(node.text, now_.has_value())) {
          // Functions are defined, but no values.
          return Value(Value::Macro{-1});
        }
        return value;
      }
      case Kind::kList: {
        ASSIGN_OR_RETURN(auto items, EvaluateAll(node, 0));
        return Value::MakeList(std::move(items));
      }
      case Kind::kDict:
        return EvaluateDict(node);
      case Kind::kUnary: {
        ASSIGN_OR_RETURN(const Value operand, Evaluate(node.children[0]));
        const Value zero(int64_t{0});
        return TemplateBinary(node.text, zero, operand, budget_);
      }
      case Kind::kBinary: {
        ASSIGN_OR_RETURN(const Value left, Evaluate(node.children[0]));
        ASSIGN_OR_RETURN(const Value right, Evaluate(node.children[1]));
        return TemplateBinary(node.text, left, right, budget_);
      }
      case Kind::kCompare:
        return EvaluateCompare(node);
      case Kind::kAnd:
      case Kind::kOr: {
        ASSIGN_OR_RETURN(Value left, Evaluate(node.children[0]));
        if (left.Truth() == (node.kind == Kind::kOr)) return left;
        return Evaluate(node.children[1]);
      }
      case Kind::kNot: {
        ASSIGN_OR_RETURN(const Value operand, Evaluate(node.children[0]));
        return Value(!operand.Truth());
      }
      case Kind::kConditional: {
        ASSIGN_OR_RETURN(const Value condition, Evaluate(node.children[0]));
        if (condition.Truth()) return Evaluate(node.children[1]);
        if (node.children[2] < 0) return Value();
        return Evaluate(node.children[2]);
      }
      case Kind::kAttribute: {
        ASSIGN_OR_RETURN(const Value object, Evaluate(node.children[0]));
        return TemplateAttribute(object, node.text);
      }
      case Kind::kItem: {
        ASSIGN_OR_RETURN(const Value object, Evaluate(node.children[0]));
        ASSIGN_OR_RETURN(const Value key, Evaluate(node.children[1]));
        if (object.is_string()) {
          RETURN_IF_ERROR(budget_.SpendBytes(object.string().size()));
        }
        return TemplateItem(object, key);
      }
      case Kind::kSlice: {
        ASSIGN_OR_RETURN(const Value object, Evaluate(node.children[0]));
        ASSIGN_OR_RETURN(const Value start, EvaluateOr(node.children[1]));
        ASSIGN_OR_RETURN(const Value stop, EvaluateOr(node.children[2]));
        ASSIGN_OR_RETURN(const Value step, EvaluateOr(node.children[3]));
        return TemplateSlice(object, start, stop, step, budget_);
      }
      case Kind::kCall:
        return EvaluateCall(node);
      case Kind::kFilter: {
        ASSIGN_OR_RETURN(const Value input, Evaluate(node.children[0]));
        ASSIGN_OR_RETURN(const auto args, EvaluateArguments(node));
        return CallTemplateFilter(node.text, input, args, budget_);
      }
      default: {  // kTest
        ASSIGN_OR_RETURN(const Value input, Evaluate(node.children[0]));
        ASSIGN_OR_RETURN(const auto args, EvaluateArguments(node));
        ASSIGN_OR_RETURN(const bool passes,
                         CallTemplateTest(node.text, input, args, budget_));
        return Value(passes != node.flag);
      }
    }
  }

  absl::StatusOr<Value::List> EvaluateAll(const TemplateNode& node,
                                          size_t first) {
    Value::List values;
    for (size_t i = first; i < node.children.size(); ++i) {
      ASSIGN_OR_RETURN(Value value, Evaluate(node.children[i]));
      values.push_back(std::move(value));
    }
    return values;
  }

  absl::StatusOr<TemplateArguments> EvaluateArguments(
      const TemplateNode& node) {
    TemplateArguments args;
    ASSIGN_OR_RETURN(args.positional, EvaluateAll(node, 1));
    const size_t first_named = args.positional.size() - node.names.size();
    for (size_t i = 0; i < node.names.size(); ++i) {
      args.named.emplace_back(node.names[i],
                              std::move(args.positional[first_named + i]));
    }
    args.positional.resize(first_named);
    return args;
  }

  ValueOr EvaluateDict(const TemplateNode& node) {
    Value::Dict dict;
    for (size_t i = 0; i < node.children.size(); i += 2) {
      ASSIGN_OR_RETURN(const Value key, Evaluate(node.children[i]));
      ASSIGN_OR_RETURN(Value value, Evaluate(node.children[i + 1]));
      if (!key.is_string()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "a dictionary's key is a ", key.TypeName(), "; want a string"));
      }
      dict.Set(key.string(), std::move(value));
    }
    return Value::MakeDict(std::move(dict));
  }

  ValueOr EvaluateCompare(const TemplateNode& node) {
    ASSIGN_OR_RETURN(Value left, Evaluate(node.children[0]));
    for (size_t i = 0; i < node.names.size(); ++i) {
      ASSIGN_OR_RETURN(Value right, Evaluate(node.children[i + 1]));
      ASSIGN_OR_RETURN(const bool holds,
                       TemplateCompare(node.names[i], left, right, budget_));
      if (!holds) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  ValueOr EvaluateCall(const TemplateNode& node) {
    const TemplateNode& callee = nodes_[node.children[0]];
    ASSIGN_OR_RETURN(const TemplateArguments args, EvaluateArguments(node));
    if (callee.kind == Kind::kAttribute) {
      ASSIGN_OR_RETURN(const Value object, Evaluate(callee.children[0]));
      return CallTemplateMethod(object, callee.text, args, budget_);
    }
    if (callee.kind != Kind::kName) {
      return absl::InvalidArgumentError("what is called is no function");
    }
    const Value function = Find(callee.text);
    if (function.is_macro() && function.macro().node < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", callee.text,
                       "\" is a function kept in a variable, which is "
                       "not supported"));
    }
    if (function.is_macro()) {
      return CallMacro(nodes_[function.macro().node], args);
    }
    if (function.is_undefined() &&
        IsTemplateFunction(callee.text, now_.has_value())) {
      return CallTemplateFunction(callee.text, args, now_, budget_);
    }
    if (function.is_undefined()) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no function \"", callee.text,
                       "\"; there are dict, namespace, raise_exception, range, "
                       "strftime_now, and macros defined before"));
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", callee.text, "\" is a ", function.TypeName(), ", no function"));
  }

  // A macro sees its arguments and what is set outside of loops and macros.
  ValueOr CallMacro(const TemplateNode& macro, const TemplateArguments& args) {
    const std::vector<std::string>& names = macro.names;
    if (args.positional.size() > names.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the macro ", macro.text, " takes at most ", names.size(),
          " arguments, not ", args.positional.size()));
    }
    Scope scope;
    for (size_t i = 0; i < args.positional.size(); ++i) {
      scope[names[i]] = args.positional[i];
    }
    for (const auto& [name, value] : args.named) {
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "the macro ", macro.text, " has no argument \"", name, "\""));
      }
      scope[name] = value;
    }
    const size_t num_defaults = macro.children.size() - 1;
    for (size_t i = 0; i < names.size(); ++i) {
      if (scope.contains(names[i])) continue;
      const size_t first_default = names.size() - num_defaults;
      if (i < first_default) {
        scope[names[i]] = Value::MakeUndefined(names[i]);
        continue;
      }
      ASSIGN_OR_RETURN(scope[names[i]],
                       Evaluate(macro.children[1 + i - first_default]));
    }
    const size_t outer_first = std::exchange(first_scope_, scopes_.size());
    scopes_.push_back(std::move(scope));
    std::string text;
    const absl::StatusOr<Flow> flow = Execute(macro.children[0], text);
    scopes_.pop_back();
    first_scope_ = outer_first;
    RETURN_IF_ERROR(flow.status());
    return Value(std::move(text));
  }

  const std::vector<TemplateNode>& nodes_;
  const std::optional<absl::Time>& now_;
  TemplateBudget budget_;
  std::vector<Scope> scopes_;
  size_t first_scope_ =
      0;  // Of the macro that is called; below, only 0 counts.
  int depth_ = 0;
};

}  // namespace

absl::StatusOr<std::string> EvaluateTemplate(
    const TemplateTree& tree,
    std::vector<std::pair<std::string, TemplateValue>> variables,
    const std::optional<absl::Time>& now, int64_t max_steps) {
  return Evaluator(tree, now, max_steps).Run(tree.root, std::move(variables));
}

}  // namespace strata
