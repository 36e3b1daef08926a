#include "core/tokenizer/post_processor.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/json_node.h"

namespace strata {
namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxFrame = 1024;  // Ids that a file may add.

// The ids of a special token of a template.
absl::StatusOr<std::vector<int32_t>> SpecialIds(const JsonNode& json,
                                                const std::string& name) {
  ASSIGN_OR_RETURN(const JsonNode tokens, json.Object("special_tokens"));
  ASSIGN_OR_RETURN(const JsonNode token, tokens.Object(name));
  ASSIGN_OR_RETURN(const auto items, token.Array("ids"));
  std::vector<int32_t> ids;
  for (const JsonNode& item : items) {
    const nlohmann::json& id = item.json();
    if (!id.is_number_integer() || id < 0 || id >= Bpe::kMaxIds) {
      return item.Error(absl::StrCat("is ", id.dump(), "; want an id, 0 to ",
                                     Bpe::kMaxIds - 1));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace

absl::Status PostProcessor::AddTemplate(const JsonNode& json) {
  ASSIGN_OR_RETURN(const auto items, json.Array("single"));
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  int num_texts = 0;
  for (const JsonNode& item : items) {
    if (item.Has("Sequence")) {
      ++num_texts;
    } else {
      ASSIGN_OR_RETURN(const JsonNode special, item.Object("SpecialToken"));
      ASSIGN_OR_RETURN(const std::string name, special.String("id"));
      ASSIGN_OR_RETURN(const auto ids, SpecialIds(json, name));
      std::vector<int32_t>& side = num_texts == 0 ? before : after;
      side.insert(side.end(), ids.begin(), ids.end());
    }
  }
  if (num_texts != 1) {
    return json.Unsupported(absl::StrCat("the template has the text ",
                                         num_texts, " times; want once"));
  }
  // A later template frames what an earlier one made.
  before_.insert(before_.begin(), before.begin(), before.end());
  after_.insert(after_.end(), after.begin(), after.end());
  if (before_.size() + after_.size() > kMaxFrame) {
    return json.Error(absl::StrCat("adds ", before_.size() + after_.size(),
                                   " ids; want at most ", kMaxFrame));
  }
  return absl::OkStatus();
}

absl::Status PostProcessor::Add(const JsonNode& json, int depth) {
  if (depth > kMaxDepth) {
    return json.Error(absl::StrCat("nests deeper than ", kMaxDepth));
  }
  ASSIGN_OR_RETURN(const std::string type, json.String("type"));
  if (type == "ByteLevel") return absl::OkStatus();  // Of offsets alone.
  if (type == "TemplateProcessing") return AddTemplate(json);
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const auto items, json.Array("processors"));
    for (const JsonNode& item : items) RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  return json.Unsupported(absl::StrCat(
      "there is no post-processor \"", type,
      "\" here; supported are ByteLevel, Sequence, TemplateProcessing"));
}

absl::StatusOr<PostProcessor> PostProcessor::Parse(const JsonNode& json) {
  PostProcessor post_processor;
  RETURN_IF_ERROR(post_processor.Add(json, /*depth=*/0));
  return post_processor;
}

}  // namespace strata
