#include "core/tokenizer/template_parser.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_lexer.h"
#include "core/tokenizer/template_value.h"

namespace strata {
namespace {

using Kind = TemplateNode::Kind;
using TokenKind = TemplateToken::Kind;
using NodeOr = absl::StatusOr<int>;

class Parser {
 public:
  explicit Parser(std::vector<TemplateToken> tokens)
      : tokens_(std::move(tokens)) {}

  absl::StatusOr<TemplateTree> Run() {
    ASSIGN_OR_RETURN(tree_.root, ParseBlock({}));
    return std::move(tree_);
  }

 private:
  // How deep the parser is in itself; each level is some ten calls.
  class Level {
   public:
    explicit Level(int& depth) : depth_(depth) { ++depth_; }
    ~Level() { --depth_; }

   private:
    int& depth_;
  };

  const TemplateToken& Peek(size_t ahead = 0) const {
    return tokens_[std::min(position_ + ahead, tokens_.size() - 1)];
  }
  bool IsOperator(absl::string_view text, size_t ahead = 0) const {
    return Peek(ahead).kind == TokenKind::kOperator && Peek(ahead).text == text;
  }
  bool IsName(absl::string_view text, size_t ahead = 0) const {
    return Peek(ahead).kind == TokenKind::kName && Peek(ahead).text == text;
  }
  bool TakeOperator(absl::string_view text) {
    if (!IsOperator(text)) return false;
    ++position_;
    return true;
  }
  bool TakeName(absl::string_view text) {
    if (!IsName(text)) return false;
    ++position_;
    return true;
  }

  absl::Status Unexpected(absl::string_view want) const {
    const TemplateToken& token = Peek();
    std::string got;
    switch (token.kind) {
      case TokenKind::kEnd:
        got = "the template's end";
        break;
      case TokenKind::kOutputEnd:
        got = "}}";
        break;
      case TokenKind::kBlockEnd:
        got = "%}";
        break;
      case TokenKind::kString:
        got = "a string";
        break;
      default:
        got = absl::StrCat("\"", token.text, "\"");
    }
    return TemplateError(token.line,
                         absl::StrCat("got ", got, "; want ", want));
  }

  absl::Status ExpectOperator(absl::string_view text) {
    if (TakeOperator(text)) return absl::OkStatus();
    return Unexpected(absl::StrCat("\"", text, "\""));
  }
  absl::StatusOr<std::string> ExpectName(absl::string_view what) {
    if (Peek().kind != TokenKind::kName) return Unexpected(what);
    return tokens_[position_++].text;
  }
  absl::Status ExpectKind(TokenKind kind, absl::string_view what) {
    if (Peek().kind != kind) return Unexpected(what);
    ++position_;
    return absl::OkStatus();
  }

  NodeOr Add(Kind kind, int line, std::vector<int> children = {},
             std::string text = "", std::vector<std::string> names = {},
             bool flag = false) {
    TemplateNode node;
    node.kind = kind;
    node.line = line;
    for (const int child : children) {
      if (child >= 0) {
        node.depth = std::max(node.depth, tree_.nodes[child].depth + 1);
      }
    }
    if (node.depth > kMaxTemplateDepth) return TooDeep(line);
    node.children = std::move(children);
    node.text = std::move(text);
    node.names = std::move(names);
    node.flag = flag;
    tree_.nodes.push_back(std::move(node));
    return static_cast<int>(tree_.nodes.size()) - 1;
  }

  static absl::Status TooDeep(int line) {
    return TemplateError(line,
                         absl::StrCat("nests deeper than ", kMaxTemplateDepth));
  }

  NodeOr AddLiteral(int line, TemplateValue value) {
    ASSIGN_OR_RETURN(const int node, Add(Kind::kLiteral, line));
    tree_.nodes[node].value = std::move(value);
    return node;
  }

  // --- Statements ---

  // Statements up to a tag that begins with one of `ends`, which is left where
  // it is; with none, up to the template's end.
  NodeOr ParseBlock(const std::vector<absl::string_view>& ends) {
    const Level level(depth_);
    if (depth_ > kMaxTemplateDepth) return TooDeep(Peek().line);
    const int line = Peek().line;
    std::vector<int> statements;
    while (true) {
      const TemplateToken& token = Peek();
      if (token.kind == TokenKind::kEnd) {
        if (ends.empty()) break;
        return Unexpected(
            absl::StrCat("{% ", ends.back(), " %} for line ", open_line_));
      }
      if (token.kind == TokenKind::kText) {
        ASSIGN_OR_RETURN(const int text,
                         Add(Kind::kText, token.line, {}, token.text));
        statements.push_back(text);
        ++position_;
      } else if (token.kind == TokenKind::kOutputBegin) {
        ++position_;
        ASSIGN_OR_RETURN(const int value, ParseTuple());
        RETURN_IF_ERROR(ExpectKind(TokenKind::kOutputEnd, "}}"));
        ASSIGN_OR_RETURN(const int output,
                         Add(Kind::kOutput, token.line, {value}));
        statements.push_back(output);
      } else {
        const absl::string_view name = Peek(1).text;
        if (Peek(1).kind == TokenKind::kName &&
            std::find(ends.begin(), ends.end(), name) != ends.end()) {
          break;
        }
        ASSIGN_OR_RETURN(const int statement, ParseStatement());
        if (statement >= 0) statements.push_back(statement);
      }
    }
    return Add(Kind::kBlock, line, std::move(statements));
  }

  // {% name ... %}. -1 for one that does nothing.
  NodeOr ParseStatement() {
    const int line = Peek().line;
    ++position_;
    ASSIGN_OR_RETURN(const std::string name, ExpectName("a statement"));
    if (name == "if") return ParseIf(line);
    if (name == "for") return ParseFor(line);
    if (name == "set") return ParseSet(line);
    if (name == "macro") return ParseMacro(line);
    if (name == "generation") return ParseGeneration(line);
    if (name == "break" || name == "continue") {
      if (num_loops_ == 0) {
        return TemplateError(line, absl::StrCat("{% ", name,
                                                " %} is in no "
                                                "loop"));
      }
      RETURN_IF_ERROR(EndTag());
      return Add(name == "break" ? Kind::kBreak : Kind::kContinue, line);
    }
    return TemplateError(
        line, absl::StrCat("there is no statement {% ", name,
                           " %} here; supported are break, continue, for, "
                           "generation, if, macro, raw, set"));
  }

  absl::Status EndTag() { return ExpectKind(TokenKind::kBlockEnd, "%}"); }

  // The body of a statement, and the tag behind it up to its name, which is
  // returned.
  NodeOr ParseBody(int line, const std::vector<absl::string_view>& ends,
                   std::string& end) {
    const int outer = std::exchange(open_line_, line);
    ASSIGN_OR_RETURN(const int body, ParseBlock(ends));
    open_line_ = outer;
    ++position_;
    end = tokens_[position_++].text;
    return body;
  }

  NodeOr ParseIf(int line) {
    std::vector<int> children;
    std::string end = "elif";
    while (end == "elif") {
      ASSIGN_OR_RETURN(const int condition, ParseTuple());
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(const int body,
                       ParseBody(line, {"elif", "else", "endif"}, end));
      children.insert(children.end(), {condition, body});
    }
    int other = -1;
    if (end == "else") {
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(other, ParseBody(line, {"endif"}, end));
    }
    RETURN_IF_ERROR(EndTag());
    children.push_back(other);
    return Add(Kind::kIf, line, std::move(children));
  }

  absl::StatusOr<std::vector<std::string>> ParseTargets() {
    std::vector<std::string> names;
    const bool in_parentheses = TakeOperator("(");
    do {
      ASSIGN_OR_RETURN(std::string name, ExpectName("a variable"));
      names.push_back(std::move(name));
    } while (TakeOperator(","));
    if (in_parentheses) RETURN_IF_ERROR(ExpectOperator(")"));
    return names;
  }

  NodeOr ParseFor(int line) {
    ASSIGN_OR_RETURN(std::vector<std::string> names, ParseTargets());
    if (!TakeName("in")) return Unexpected("\"in\"");
    // Not a conditional: its if would be the loop's.
    ASSIGN_OR_RETURN(const int items, ParseOr());
    int condition = -1;
    if (TakeName("if")) {
      ASSIGN_OR_RETURN(condition, ParseExpression());
    }
    if (IsName("recursive")) {
      return TemplateError(line, "recursive loops are not supported");
    }
    RETURN_IF_ERROR(EndTag());
    std::string end;
    ++num_loops_;
    ASSIGN_OR_RETURN(const int body, ParseBody(line, {"else", "endfor"}, end));
    --num_loops_;
    int other = -1;
    if (end == "else") {
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(other, ParseBody(line, {"endfor"}, end));
    }
    RETURN_IF_ERROR(EndTag());
    return Add(Kind::kFor, line, {items, condition, body, other}, "",
               std::move(names));
  }

  NodeOr ParseSet(int line) {
    std::vector<std::string> names;
    bool is_attribute = false;
    if (IsOperator(".", 1)) {
      ASSIGN_OR_RETURN(std::string object, ExpectName("a variable"));
      ++position_;
      ASSIGN_OR_RETURN(std::string attribute, ExpectName("an attribute"));
      names = {std::move(object), std::move(attribute)};
      is_attribute = true;
    } else {
      ASSIGN_OR_RETURN(names, ParseTargets());
    }
    if (TakeOperator("=")) {
      ASSIGN_OR_RETURN(const int value, ParseTuple());
      RETURN_IF_ERROR(EndTag());
      return Add(Kind::kSet, line, {value}, "", std::move(names), is_attribute);
    }
    if (is_attribute || names.size() != 1 ||
        Peek().kind != TokenKind::kBlockEnd) {
      return Unexpected("\"=\"");
    }
    RETURN_IF_ERROR(EndTag());
    std::string end;
    ASSIGN_OR_RETURN(const int body, ParseBody(line, {"endset"}, end));
    RETURN_IF_ERROR(EndTag());
    return Add(Kind::kSetBlock, line, {body}, "", std::move(names));
  }

  NodeOr ParseMacro(int line) {
    ASSIGN_OR_RETURN(std::string name, ExpectName("the macro's name"));
    RETURN_IF_ERROR(ExpectOperator("("));
    std::vector<std::string> names;
    std::vector<int> children = {-1};
    while (!TakeOperator(")")) {
      if (!names.empty()) {
        RETURN_IF_ERROR(ExpectOperator(","));
        if (TakeOperator(")")) break;
      }
      ASSIGN_OR_RETURN(std::string parameter, ExpectName("a parameter"));
      names.push_back(std::move(parameter));
      if (TakeOperator("=")) {
        ASSIGN_OR_RETURN(const int value, ParseExpression());
        children.push_back(value);
      } else if (children.size() > 1) {
        return Unexpected("a default, as the parameter before has one");
      }
    }
    RETURN_IF_ERROR(EndTag());
    std::string end;
    const int loops = std::exchange(num_loops_, 0);
    ASSIGN_OR_RETURN(children[0], ParseBody(line, {"endmacro"}, end));
    num_loops_ = loops;
    RETURN_IF_ERROR(EndTag());
    return Add(Kind::kMacro, line, std::move(children), std::move(name),
               std::move(names));
  }

  // What transformers adds to mark the assistant's text: only its body counts.
  NodeOr ParseGeneration(int line) {
    RETURN_IF_ERROR(EndTag());
    std::string end;
    ASSIGN_OR_RETURN(const int body, ParseBody(line, {"endgeneration"}, end));
    RETURN_IF_ERROR(EndTag());
    return body;
  }

  // --- Expressions, from the weakest binding to the strongest ---

  // An expression, or several with commas: a list.
  NodeOr ParseTuple() {
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

  NodeOr ParseExpression() {
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
      ASSIGN_OR_RETURN(
          value, Add(Kind::kConditional, line, {condition, value, other}));
    }
    return value;
  }

  NodeOr ParseOr() {
    ASSIGN_OR_RETURN(int left, ParseAnd());
    while (IsName("or")) {
      const int line = Peek().line;
      ++position_;
      ASSIGN_OR_RETURN(const int right, ParseAnd());
      ASSIGN_OR_RETURN(left, Add(Kind::kOr, line, {left, right}));
    }
    return left;
  }

  NodeOr ParseAnd() {
    ASSIGN_OR_RETURN(int left, ParseNot());
    while (IsName("and")) {
      const int line = Peek().line;
      ++position_;
      ASSIGN_OR_RETURN(const int right, ParseNot());
      ASSIGN_OR_RETURN(left, Add(Kind::kAnd, line, {left, right}));
    }
    return left;
  }

  NodeOr ParseNot() {
    if (!IsName("not")) return ParseCompare();
    const Level level(depth_);
    const int line = Peek().line;
    if (depth_ > kMaxTemplateDepth) return TooDeep(line);
    ++position_;
    ASSIGN_OR_RETURN(const int operand, ParseNot());
    return Add(Kind::kNot, line, {operand});
  }

  NodeOr ParseCompare() {
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
  NodeOr ParseBinary(const std::vector<absl::string_view>& signs, Next next) {
    ASSIGN_OR_RETURN(int left, next());
    while (true) {
      const TemplateToken& token = Peek();
      if (token.kind != TokenKind::kOperator ||
          std::find(signs.begin(), signs.end(), token.text) == signs.end()) {
        return left;
      }
      ++position_;
      ASSIGN_OR_RETURN(const int right, next());
      ASSIGN_OR_RETURN(
          left, Add(Kind::kBinary, token.line, {left, right}, token.text));
    }
  }

  NodeOr ParseSum() {
    return ParseBinary({"+", "-"}, [this] { return ParseConcatenation(); });
  }
  NodeOr ParseConcatenation() {
    return ParseBinary({"~"}, [this] { return ParseProduct(); });
  }
  NodeOr ParseProduct() {
    return ParseBinary({"*", "/", "//", "%"}, [this] { return ParsePower(); });
  }
  NodeOr ParsePower() {
    return ParseBinary({"**"}, [this] { return ParseUnary(true); });
  }

  NodeOr ParseUnary(bool with_filters) {
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

  NodeOr ParsePrimary() {
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

  NodeOr ParsePostfix(int value) {
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

  // Behind "[".
  NodeOr ParseSubscript(int line, int object) {
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

  // Appends what is in parentheses.
  absl::Status ParseArguments(std::vector<int>& children,
                              std::vector<std::string>& names) {
    RETURN_IF_ERROR(ExpectOperator("("));
    bool is_first = true;
    while (!TakeOperator(")")) {
      if (!is_first) {
        RETURN_IF_ERROR(ExpectOperator(","));
        if (TakeOperator(")")) break;
      }
      is_first = false;
      if (IsOperator("*") || IsOperator("**")) {
        return TemplateError(Peek().line,
                             "* and ** are not supported in calls");
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

  NodeOr ParseFilters(int value) {
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
        ASSIGN_OR_RETURN(
            value, Add(Kind::kTest, line, std::move(children), std::move(name),
                       std::move(names), negated));
      } else if (IsOperator("(")) {
        ASSIGN_OR_RETURN(value, ParsePostfix(value));
      } else {
        return value;
      }
    }
  }

  // Whether a test's argument without parentheses follows: "is divisibleby 3".
  bool BeginsArgument() const {
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

  const std::vector<TemplateToken> tokens_;
  size_t position_ = 0;
  int depth_ = 0;
  int num_loops_ = 0;  // That are open here.
  int open_line_ = 1;  // Of the statement that is to be closed next.
  TemplateTree tree_;
};

}  // namespace

absl::StatusOr<TemplateTree> ParseTemplate(absl::string_view source) {
  ASSIGN_OR_RETURN(std::vector<TemplateToken> tokens, LexTemplate(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace strata
