#include "core/tokenizer/template_parser.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/template_expressions.h"
#include "core/tokenizer/template_lexer.h"

namespace strata {
namespace {

// Statements, and with them the whole.
class Parser : public TemplateExpressions {
 public:
  explicit Parser(std::vector<TemplateToken> tokens)
      : TemplateExpressions(std::move(tokens)) {}

  absl::StatusOr<TemplateTree> Run() {
    ASSIGN_OR_RETURN(tree_.root, ParseBlock({}));
    return std::move(tree_);
  }

 private:
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

  int num_loops_ = 0;  // That are open here.
  int open_line_ = 1;  // Of the statement that is to be closed next.
};

}  // namespace

absl::StatusOr<TemplateTree> ParseTemplate(absl::string_view source) {
  ASSIGN_OR_RETURN(std::vector<TemplateToken> tokens, LexTemplate(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace strata
