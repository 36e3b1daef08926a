// What the parsers of a chat template share: the tokens, with a place in them,
// and the tree that is made.

#ifndef CORE_TOKENIZER_TEMPLATE_BUILDER_H_
#define CORE_TOKENIZER_TEMPLATE_BUILDER_H_

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
#include "core/tokenizer/template_parser.h"
#include "core/tokenizer/template_value.h"

namespace strata {

class TemplateBuilder {
 protected:
  using Kind = TemplateNode::Kind;
  using TokenKind = TemplateToken::Kind;
  using NodeOr = absl::StatusOr<int>;  // An index into the tree's nodes.

  explicit TemplateBuilder(std::vector<TemplateToken> tokens)
      : tokens_(std::move(tokens)) {}

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

  const std::vector<TemplateToken> tokens_;
  size_t position_ = 0;
  int depth_ = 0;
  TemplateTree tree_;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_TEMPLATE_BUILDER_H_
