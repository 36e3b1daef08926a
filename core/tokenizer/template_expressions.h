// Expressions of chat templates to nodes of a tree; from the weakest binding to
// the strongest, each calls the next.

#ifndef CORE_TOKENIZER_TEMPLATE_EXPRESSIONS_H_
#define CORE_TOKENIZER_TEMPLATE_EXPRESSIONS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/template_builder.h"
#include "core/tokenizer/template_lexer.h"

namespace strata {

class TemplateExpressions : public TemplateBuilder {
 protected:
  using TemplateBuilder::TemplateBuilder;

  // An expression, or several with commas: a list.
  NodeOr ParseTuple();
  NodeOr ParseExpression();
  NodeOr ParseOr();

 private:
  NodeOr ParseAnd();
  NodeOr ParseNot();
  NodeOr ParseCompare();
  template <typename Next>
  NodeOr ParseBinary(const std::vector<absl::string_view>& signs, Next next);
  NodeOr ParseSum();
  NodeOr ParseConcatenation();
  NodeOr ParseProduct();
  NodeOr ParsePower();
  NodeOr ParseUnary(bool with_filters);
  NodeOr ParsePrimary();
  NodeOr ParsePostfix(int value);
  // Behind "[".
  NodeOr ParseSubscript(int line, int object);
  // Appends what is in parentheses.
  absl::Status ParseArguments(std::vector<int>& children,
                              std::vector<std::string>& names);
  NodeOr ParseFilters(int value);
  // Whether a test's argument without parentheses follows: "is divisibleby 3".
  bool BeginsArgument() const;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_TEMPLATE_EXPRESSIONS_H_
