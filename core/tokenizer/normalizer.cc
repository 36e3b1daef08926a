#include "core/tokenizer/normalizer.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxPatternBytes = 1024;
// How many bytes all Replaces together may make of one: published files need 3,
// and a chain of generous ones would grow without bound.
constexpr size_t kMaxGrowth = 64;

std::string StripSpaces(absl::string_view text, bool left, bool right) {
  size_t begin = 0;
  size_t end = text.size();
  while (left && begin < end) {
    const Decoded first = DecodeAt(text, begin);
    if (!(ClassesOf(first.c) & kSpace)) break;
    begin = first.end;
  }
  while (right && begin < end) {
    const size_t last = PreviousBegin(text, end);
    if (!(ClassesOf(DecodeAt(text, last).c) & kSpace)) break;
    end = last;
  }
  return std::string(text.substr(begin, end - begin));
}

}  // namespace

std::string ReplaceAll(absl::string_view text, absl::string_view from,
                       absl::string_view to) {
  std::string result;
  result.reserve(text.size());
  while (true) {
    const size_t pos = text.find(from);
    if (pos == absl::string_view::npos) break;
    absl::StrAppend(&result, text.substr(0, pos), to);
    text.remove_prefix(pos + from.size());
  }
  absl::StrAppend(&result, text);
  return result;
}

absl::StatusOr<std::string> ParseStringPattern(const JsonNode& json) {
  ASSIGN_OR_RETURN(const JsonNode pattern, json.Object("pattern"));
  if (!pattern.Has("String")) {
    return pattern.Unsupported(
        "only a pattern that is a \"String\" is supported here");
  }
  ASSIGN_OR_RETURN(std::string text, pattern.String("String"));
  if (text.empty() || text.size() > kMaxPatternBytes) {
    return pattern.Error(absl::StrCat("the string has ", text.size(),
                                      " bytes; want 1 to ", kMaxPatternBytes));
  }
  return text;
}

absl::Status Normalizer::Add(const JsonNode& json, int depth) {
  if (depth > kMaxDepth) {
    return json.Error(absl::StrCat("nests deeper than ", kMaxDepth));
  }
  ASSIGN_OR_RETURN(const std::string type, json.String("type"));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const auto items, json.Array("normalizers"));
    for (const JsonNode& item : items) RETURN_IF_ERROR(Add(item, depth + 1));
  } else if (type == "NFC") {
    steps_.push_back([](const std::string& text) { return ToNfc(text); });
  } else if (type == "NFD") {
    steps_.push_back([](const std::string& text) { return ToNfd(text); });
  } else if (type == "Prepend") {
    ASSIGN_OR_RETURN(const std::string prefix, json.String("prepend"));
    if (prefix.size() > kMaxPatternBytes) {
      return json.Error(absl::StrCat("prepends ", prefix.size(),
                                     " bytes; want at most ",
                                     kMaxPatternBytes));
    }
    steps_.push_back([prefix](std::string text) {
      return text.empty() ? text : prefix + text;
    });
  } else if (type == "Replace") {
    ASSIGN_OR_RETURN(const std::string from, ParseStringPattern(json));
    ASSIGN_OR_RETURN(const std::string to, json.String("content"));
    growth_ *= std::max<size_t>(1, (to.size() + from.size() - 1) / from.size());
    if (growth_ > kMaxGrowth) {
      return json.Error(absl::StrCat("text may become ", growth_,
                                     " times as long; want at most ",
                                     kMaxGrowth));
    }
    steps_.push_back([from, to](const std::string& text) {
      return ReplaceAll(text, from, to);
    });
  } else if (type == "Strip") {
    ASSIGN_OR_RETURN(const bool left, json.BoolOr("strip_left", true));
    ASSIGN_OR_RETURN(const bool right, json.BoolOr("strip_right", true));
    steps_.push_back([left, right](const std::string& text) {
      return StripSpaces(text, left, right);
    });
  } else {
    return json.Unsupported(
        absl::StrCat("there is no normalizer \"", type,
                     "\" here; supported are NFC, NFD, Prepend, Replace, "
                     "Sequence, Strip"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Normalizer> Normalizer::Parse(const JsonNode& json) {
  Normalizer normalizer;
  RETURN_IF_ERROR(normalizer.Add(json, /*depth=*/0));
  if (normalizer.steps_.size() > kMaxSteps) {
    return json.Error(absl::StrCat("has ", normalizer.steps_.size(),
                                   " steps; want at most ", kMaxSteps));
  }
  return normalizer;
}

std::string Normalizer::Normalize(absl::string_view text) const {
  std::string normal(text);
  for (const auto& step : steps_) normal = step(std::move(normal));
  return normal;
}

}  // namespace strata
