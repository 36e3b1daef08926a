#include "core/tokenizer/template_expressions.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_builder.h"
#include "core/tokenizer/template_lexer.h"
#include "core/tokenizer/template_parser.h"
#include "core/tokenizer/template_value.h"

namespace strata {

TemplateBuilder::NodeOr TemplateExpressions::ParseTuple() {
  const int line = Peek().line;
  ASSIGN_OR_RETURN(const int first, ParseExpression());
  if (!IsOperator(",")) return first;
  std::vector<int> items = {first};
  while (TakeOperator(",")) {
    if (Peek().kind == TokenKind::kBlockEnd ||
        Peek().kind == TokenKind::kOutputEnd || IsOperator(")")) {
      break;
    }
    ASSIGN_OR_RETURN(const int item, ParseExpression());
    items.push_back(item);
  }
  return Add(Kind::kList, line, std::move(items));
}

TemplateBuilder::NodeOr TemplateExpressions::ParseExpression() {
  const Level level(depth_);
  if (depth_ > kMaxTemplateDepth) return TooDeep(Peek().line);
  const int line = Peek().line;
  ASSIGN_OR_RETURN(int value, ParseOr());
  while (TakeName("if")) {
    ASSIGN_OR_RETURN(const int condition, ParseOr());
    int other = -1;
    if (TakeName("else")) {
      ASSIGN_OR_RETURN(other, ParseExpression());
    }
    ASSIGN_OR_RETURN(value,
                     Add(Kind::kConditional, line, {condition, value, other}));
  }
  return value;
}

TemplateBuilder::NodeOr TemplateExpressions::ParseOr() {
  ASSIGN_OR_RETURN(int left, ParseAnd());
  while (IsName("or")) {
    const int line = Peek().line;
    ++position_;
    ASSIGN_OR_RETURN(const int right, ParseAnd());
    ASSIGN_OR_RETURN(left, Add(Kind::kOr, line, {left, right}));
  }
  return left;
}

TemplateBuilder::NodeOr TemplateExpressions::ParseAnd() {
  ASSIGN_OR_RETURN(int left, ParseNot());
  while (IsName("and")) {
    const int line = Peek().line;
    ++position_;
    ASSIGN_OR_RETURN(const int right, ParseNot());
    ASSIGN_OR_RETURN(left, Add(Kind::kAnd, line, {left, right}));
  }
  return left;
}

TemplateBuilder::NodeOr TemplateExpressions::ParseNot() {
  if (!IsName("not")) return ParseCompare();
  const Level level(depth_);
  const int line = Peek().line;
  if (depth_ > kMaxTemplateDepth) return TooDeep(line);
  ++position_;
  ASSIGN_OR_RETURN(const int operand, ParseNot());
  return Add(Kind::kNot, line, {operand});
}

TemplateBuilder::NodeOr TemplateExpressions::ParseCompare() {
  const int line = Peek().line;
  ASSIGN_OR_RETURN(const int first, ParseSum());
  std::vector<int> operands = {first};
  std::vector<std::string> signs;
  while (true) {
    std::string sign;
    for (const char* known : {"==", "!=", "<", "<=", ">", ">="}) {
      if (IsOperator(known)) sign = known;
    }
    if (!sign.empty()) {
      ++position_;
    } else if (TakeName("in")) {
      sign = "in";
    } else if (IsName("not") && IsName("in", 1)) {
      position_ += 2;
      sign = "not in";
    } else {
      break;
    }
    ASSIGN_OR_RETURN(const int operand, ParseSum());
    operands.push_back(operand);
    signs.push_back(std::move(sign));
  }
  if (signs.empty()) return first;
  return Add(Kind::kCompare, line, std::move(operands), "", std::move(signs));
}

template <typename Next>
TemplateBuilder::NodeOr TemplateExpressions::ParseBinary(
    const std::vector<absl::string_view>& signs, Next next) {
  ASSIGN_OR_RETURN(int left, next());
  while (true) {
    const TemplateToken& token = Peek();
    if (token.kind != TokenKind::kOperator ||
        std::find(signs.begin(), signs.end(), token.text) == signs.end()) {
      return left;
    }
    ++position_;
    ASSIGN_OR_RETURN(const int right, next());
    ASSIGN_OR_RETURN(left,
                     Add(Kind::kBinary, token.line, {left, right}, token.text));
  }
}

TemplateBuilder::NodeOr TemplateExpressions::ParseSum() {
  return ParseBinary({"+", "-"}, [this] { return ParseConcatenation(); });
}

TemplateBuilder::NodeOr TemplateExpressions::ParseConcatenation() {
  return ParseBinary({"~"}, [this] { return ParseProduct(); });
}

TemplateBuilder::NodeOr TemplateExpressions::ParseProduct() {
  return ParseBinary({"*", "/", "//", "%"}, [this] { return ParsePower(); });
}

TemplateBuilder::NodeOr TemplateExpressions::ParsePower() {
  return ParseBinary({"**"}, [this] { return ParseUnary(true); });
}

TemplateBuilder::NodeOr TemplateExpressions::ParseUnary(bool with_filters) {
  const Level level(depth_);
  const int line = Peek().line;
  if (depth_ > kMaxTemplateDepth) return TooDeep(line);
  int value = -1;
  if (IsOperator("-") || IsOperator("+")) {
    const std::string sign = tokens_[position_++].text;
    ASSIGN_OR_RETURN(const int operand, ParseUnary(false));
    ASSIGN_OR_RETURN(value, Add(Kind::kUnary, line, {operand}, sign));
  } else {
    ASSIGN_OR_RETURN(value, ParsePrimary());
  }
  ASSIGN_OR_RETURN(value, ParsePostfix(value));
  return with_filters ? ParseFilters(value) : value;
}

TemplateBuilder::NodeOr TemplateExpressions::ParsePrimary() {
  const TemplateToken& token = Peek();
  const int line = token.line;
  switch (token.kind) {
    case TokenKind::kName: {
      ++position_;
      const std::string& name = token.text;
      if (name == "true" || name == "True") return AddLiteral(line, true);
      if (name == "false" || name == "False") return AddLiteral(line, false);
      if (name == "none" || name == "None") {
        return AddLiteral(line, TemplateValue::MakeNone());
      }
      return Add(Kind::kName, line, {}, name);
    }
    case TokenKind::kString: {
      // Strings side by side are one.
      std::string text;
      while (Peek().kind == TokenKind::kString) {
        text += tokens_[position_++].text;
      }
      return AddLiteral(line, TemplateValue(std::move(text)));
    }
    case TokenKind::kInteger:
      ++position_;
      return AddLiteral(line, TemplateValue(token.integer));
    case TokenKind::kFloat:
      ++position_;
      return AddLiteral(line, TemplateValue(token.number));
    default:
      break;
  }
  if (TakeOperator("(")) {
    if (TakeOperator(")")) return Add(Kind::kList, line);
    ASSIGN_OR_RETURN(const int value, ParseTuple());
    RETURN_IF_ERROR(ExpectOperator(")"));
    return value;
  }
  if (TakeOperator("[")) {
    std::vector<int> items;
    while (!TakeOperator("]")) {
      if (!items.empty()) {
        RETURN_IF_ERROR(ExpectOperator(","));
        if (TakeOperator("]")) break;
      }
      ASSIGN_OR_RETURN(const int item, ParseExpression());
      items.push_back(item);
    }
    return Add(Kind::kList, line, std::move(items));
  }
  if (TakeOperator("{")) {
    std::vector<int> items;
    while (!TakeOperator("}")) {
      if (!items.empty()) {
        RETURN_IF_ERROR(ExpectOperator(","));
        if (TakeOperator("}")) break;
      }
      ASSIGN_OR_RETURN(const int key, ParseExpression());
      RETURN_IF_ERROR(ExpectOperator(":"));
      ASSIGN_OR_RETURN(const int value, ParseExpression());
      items.insert(items.end(), {key, value});
    }
    return Add(Kind::kDict, line, std::move(items));
  }
  return Unexpected("an expression");
}

TemplateBuilder::NodeOr TemplateExpressions::ParsePostfix(int value) {
  while (true) {
    const int line = Peek().line;
    if (TakeOperator(".")) {
      if (Peek().kind == TokenKind::kInteger) {
        ASSIGN_OR_RETURN(const int index,
                         AddLiteral(line, TemplateValue(Peek().integer)));
        ++position_;
        ASSIGN_OR_RETURN(value, Add(Kind::kItem, line, {value, index}));
        continue;
      }
      ASSIGN_OR_RETURN(std::string name, ExpectName("an attribute"));
      ASSIGN_OR_RETURN(value,
                       Add(Kind::kAttribute, line, {value}, std::move(name)));
    } else if (TakeOperator("[")) {
      ASSIGN_OR_RETURN(value, ParseSubscript(line, value));
    } else if (IsOperator("(")) {
      std::vector<int> children = {value};
      std::vector<std::string> names;
      RETURN_IF_ERROR(ParseArguments(children, names));
      ASSIGN_OR_RETURN(value, Add(Kind::kCall, line, std::move(children), "",
                                  std::move(names)));
    } else {
      return value;
    }
  }
}

TemplateBuilder::NodeOr TemplateExpressions::ParseSubscript(int line,
                                                            int object) {
  int parts[3] = {-1, -1, -1};
  int num_colons = 0;
  while (!IsOperator("]")) {
    if (TakeOperator(":")) {
      if (++num_colons > 2) return Unexpected("\"]\"");
    } else {
      if (parts[num_colons] >= 0) return Unexpected("\"]\"");
      ASSIGN_OR_RETURN(parts[num_colons], ParseExpression());
    }
  }
  if (num_colons == 0 && parts[0] < 0) return Unexpected("an index");
  ++position_;
  if (num_colons == 0) return Add(Kind::kItem, line, {object, parts[0]});
  return Add(Kind::kSlice, line, {object, parts[0], parts[1], parts[2]});
}

absl::Status TemplateExpressions::ParseArguments(
    std::vector<int>& children, std::vector<std::string>& names) {
  RETURN_IF_ERROR(ExpectOperator("("));
  bool is_first = true;
  while (!TakeOperator(")")) {
    if (!is_first) {
      RETURN_IF_ERROR(ExpectOperator(","));
      if (TakeOperator(")")) break;
    }
    is_first = false;
    if (IsOperator("*") || IsOperator("**")) {
      return TemplateError(Peek().line, "* and ** are not supported in calls");
    }
    if (Peek().kind == TokenKind::kName && IsOperator("=", 1)) {
      names.push_back(Peek().text);
      position_ += 2;
    } else if (!names.empty()) {
      return Unexpected("an argument with a name, as those before have");
    }
    ASSIGN_OR_RETURN(const int argument, ParseExpression());
    children.push_back(argument);
  }
  return absl::OkStatus();
}

TemplateBuilder::NodeOr TemplateExpressions::ParseFilters(int value) {
  while (true) {
    const int line = Peek().line;
    if (TakeOperator("|")) {
      ASSIGN_OR_RETURN(std::string name, ExpectName("a filter"));
      std::vector<int> children = {value};
      std::vector<std::string> names;
      if (IsOperator("(")) RETURN_IF_ERROR(ParseArguments(children, names));
      ASSIGN_OR_RETURN(value, Add(Kind::kFilter, line, std::move(children),
                                  std::move(name), std::move(names)));
    } else if (TakeName("is")) {
      const bool negated = TakeName("not");
      ASSIGN_OR_RETURN(std::string name, ExpectName("a test"));
      std::vector<int> children = {value};
      std::vector<std::string> names;
      if (IsOperator("(")) {
        RETURN_IF_ERROR(ParseArguments(children, names));
      } else if (BeginsArgument()) {
        ASSIGN_OR_RETURN(int argument, ParsePrimary());
        ASSIGN_OR_RETURN(argument, ParsePostfix(argument));
        children.push_back(argument);
      }
      ASSIGN_OR_RETURN(value, Add(Kind::kTest, line, std::move(children),
                                  std::move(name), std::move(names), negated));
    } else if (IsOperator("(")) {
      ASSIGN_OR_RETURN(value, ParsePostfix(value));
    } else {
      return value;
    }
  }
}

bool TemplateExpressions::BeginsArgument() const {
  switch (Peek().kind) {
    case TokenKind::kString:
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return true;
    case TokenKind::kOperator:
      return IsOperator("[") || IsOperator("{");
    case TokenKind::kName:
      for (const char* word :
           {"else", "or", "and", "if", "is", "not", "in", "recursive"}) {
        if (IsName(word)) return false;
      }
      return true;
    default:
      return false;
  }
}

}  // namespace strata
