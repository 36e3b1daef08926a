// A chat template as a tree.
//
// Nodes lie in one array and name each other by index, so that taking a tree
// down needs no recursion. It nests kMaxTemplateDepth deep at most.

#ifndef CORE_TOKENIZER_TEMPLATE_PARSER_H_
#define CORE_TOKENIZER_TEMPLATE_PARSER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/template_value.h"

namespace strata {

inline constexpr int kMaxTemplateDepth = 100;

struct TemplateNode {
  enum class Kind {
    // Expressions. `children` are, in order:
    kLiteral,      // -; `value`
    kName,         // -; `text`
    kList,         // items; of a tuple too
    kDict,         // key, value, key, value ...
    kUnary,        // operand; `text` is "-" or "+"
    kBinary,       // left, right; `text` is "+", "~", "*" ...
    kCompare,      // operands; `names` are the signs between them
    kAnd,          // left, right
    kOr,           // left, right
    kNot,          // operand
    kConditional,  // condition, then, else (or -1)
    kAttribute,    // object; `text`
    kItem,         // object, index
    kSlice,        // object, start, stop, step; each of these may be -1
    kCall,         // callee, arguments
    kFilter,       // input, arguments; `text` is the filter's name
    kTest,         // input, arguments; `text`; `flag`: "is not"
    // Statements.
    kBlock,     // statements
    kText,      // -; `text`
    kOutput,    // expression
    kIf,        // condition, block, condition, block ..., block of else or -1
    kFor,       // items, condition (or -1), body, else (or -1); `names`
    kSet,       // expression; `names`, or `flag`: names[0].names[1]
    kSetBlock,  // block; `names` has one
    kMacro,     // block, defaults of the last parameters; `text`; `names`
    kBreak,
    kContinue,
  };

  Kind kind = Kind::kBlock;
  int line = 1;
  int depth = 1;  // Of the tree below, itself included.
  std::string text;
  TemplateValue value;
  std::vector<int> children;
  // Of calls, filters and tests: the last arguments are passed by these names.
  std::vector<std::string> names;
  bool flag = false;
};

struct TemplateTree {
  std::vector<TemplateNode> nodes;
  int root = 0;
};

// `source` is valid UTF-8.
//
// Returns INVALID_ARGUMENT, with the line, for what is no template, and for
// statements of Jinja that chat templates have no use for.
absl::StatusOr<TemplateTree> ParseTemplate(absl::string_view source);

}  // namespace strata

#endif  // CORE_TOKENIZER_TEMPLATE_PARSER_H_
