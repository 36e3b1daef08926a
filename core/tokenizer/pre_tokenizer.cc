#include "core/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/split_pattern.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxSteps = 64;
constexpr char kSpaceMark[] = "\xE2\x96\x81";  // U+2581

enum class Behavior {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

using Span = std::pair<size_t, size_t>;

// Takes the spans of a piece from left to right, matches and what lies between
// them, and appends pieces.
class Cutter {
 public:
  Cutter(Behavior behavior, std::vector<Span>& out)
      : behavior_(behavior), out_(out), first_(out.size()) {}

  void Add(Span span, bool is_match) {
    if (span.first == span.second) return;
    switch (behavior_) {
      case Behavior::kRemoved:
        if (!is_match) out_.push_back(span);
        break;
      case Behavior::kIsolated:
        out_.push_back(span);
        break;
      case Behavior::kMergedWithPrevious:
        // Of two matches in a row the second begins a piece.
        Put(span, /*merge=*/is_match && !last_is_match_);
        break;
      case Behavior::kMergedWithNext:
        // From the right, of two matches in a row the first ends a piece.
        Put(span, /*merge=*/!is_match && last_is_match_);
        break;
      case Behavior::kContiguous:
        Put(span, /*merge=*/is_match == last_is_match_);
        break;
    }
    last_is_match_ = is_match;
  }

 private:
  void Put(Span span, bool merge) {
    if (merge && out_.size() > first_) {
      out_.back().second = span.second;
    } else {
      out_.push_back(span);
    }
  }

  const Behavior behavior_;
  std::vector<Span>& out_;
  const size_t first_;
  bool last_is_match_ = false;
};

void Cut(const SplitPattern& pattern, Behavior behavior, bool invert,
         Pieces& pieces) {
  std::vector<Span> spans;
  spans.reserve(pieces.spans.size() + pieces.text.size() / 8);
  for (size_t i = 0; i < pieces.spans.size(); ++i) {
    const absl::string_view text = pieces.piece(i);
    const size_t base = pieces.spans[i].first;
    Cutter cutter(behavior, spans);
    size_t end = 0;
    while (true) {
      const SplitPattern::Match match = pattern.Find(text, end);
      if (match.begin == absl::string_view::npos) break;
      cutter.Add({base + end, base + match.begin}, /*is_match=*/invert);
      cutter.Add({base + match.begin, base + match.end}, !invert);
      end = match.end;
    }
    cutter.Add({base + end, base + text.size()}, /*is_match=*/invert);
  }
  pieces.spans = std::move(spans);
}

// Replaces each piece's text by what `change` makes of it.
template <typename Change>
void ChangeEach(Pieces& pieces, Change change) {
  std::string text;
  text.reserve(pieces.text.size() + pieces.spans.size());
  for (size_t i = 0; i < pieces.spans.size(); ++i) {
    const size_t begin = text.size();
    const bool is_first = pieces.at_start && pieces.spans[i].first == 0;
    change(pieces.piece(i), is_first, text);
    pieces.spans[i] = {begin, text.size()};
  }
  pieces.text = std::move(text);
}

absl::StatusOr<Behavior> ParseBehavior(const JsonNode& json) {
  ASSIGN_OR_RETURN(const std::string name, json.String("behavior"));
  for (const auto& [known, behavior] :
       {std::pair<absl::string_view, Behavior>{"Removed", Behavior::kRemoved},
        {"Isolated", Behavior::kIsolated},
        {"MergedWithPrevious", Behavior::kMergedWithPrevious},
        {"MergedWithNext", Behavior::kMergedWithNext},
        {"Contiguous", Behavior::kContiguous}}) {
    if (name == known) return behavior;
  }
  return json.Error(absl::StrCat(
      "behavior is \"", name,
      "\"; want Removed, Isolated, MergedWithPrevious, MergedWithNext or "
      "Contiguous"));
}

absl::StatusOr<std::shared_ptr<const SplitPattern>> ParsePattern(
    const JsonNode& json) {
  ASSIGN_OR_RETURN(const JsonNode pattern, json.Object("pattern"));
  if (pattern.Has("Regex")) {
    ASSIGN_OR_RETURN(const std::string regex, pattern.String("Regex"));
    absl::StatusOr<std::unique_ptr<SplitPattern>> known = RegexPattern(regex);
    if (!known.ok()) return pattern.Unsupported(known.status().message());
    return std::shared_ptr<const SplitPattern>(*std::move(known));
  }
  ASSIGN_OR_RETURN(std::string text, ParseStringPattern(json));
  return std::shared_ptr<const SplitPattern>(TextPattern(std::move(text)));
}

enum class Prepend { kAlways, kFirst, kNever };

absl::StatusOr<Prepend> ParsePrepend(const JsonNode& json) {
  ASSIGN_OR_RETURN(const bool add_space, json.BoolOr("add_prefix_space", true));
  ASSIGN_OR_RETURN(
      const std::string scheme,
      json.StringOr("prepend_scheme", add_space ? "always" : "never"));
  if (scheme == "always") return Prepend::kAlways;
  if (scheme == "first") return Prepend::kFirst;
  if (scheme == "never") return Prepend::kNever;
  return json.Error(absl::StrCat("prepend_scheme is \"", scheme,
                                 "\"; want always, first or never"));
}

}  // namespace

absl::Status PreTokenizer::Add(const JsonNode& json, int depth) {
  if (depth > kMaxDepth) {
    return json.Error(absl::StrCat("nests deeper than ", kMaxDepth));
  }
  ASSIGN_OR_RETURN(const std::string type, json.String("type"));
  if (is_byte_level_ && type != "Sequence") {
    return json.Unsupported(
        absl::StrCat(type, " comes after ByteLevel, which must be the last"));
  }
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const auto items, json.Array("pretokenizers"));
    for (const JsonNode& item : items) RETURN_IF_ERROR(Add(item, depth + 1));
  } else if (type == "Split") {
    ASSIGN_OR_RETURN(const auto pattern, ParsePattern(json));
    ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(json));
    ASSIGN_OR_RETURN(const bool invert, json.BoolOr("invert", false));
    steps_.push_back([pattern, behavior, invert](Pieces& pieces) {
      Cut(*pattern, behavior, invert, pieces);
    });
  } else if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool each, json.BoolOr("individual_digits", false));
    const std::shared_ptr<const SplitPattern> pattern = DigitsPattern(each);
    steps_.push_back([pattern](Pieces& pieces) {
      Cut(*pattern, Behavior::kIsolated, /*invert=*/false, pieces);
    });
  } else if (type == "ByteLevel") {
    ASSIGN_OR_RETURN(const bool add_space,
                     json.BoolOr("add_prefix_space", true));
    ASSIGN_OR_RETURN(const bool use_regex, json.BoolOr("use_regex", true));
    is_byte_level_ = true;
    if (add_space) {
      steps_.push_back([](Pieces& pieces) {
        ChangeEach(pieces,
                   [](absl::string_view piece, bool, std::string& text) {
                     if (!absl::StartsWith(piece, " ")) text += ' ';
                     absl::StrAppend(&text, piece);
                   });
      });
    }
    if (use_regex) {
      const std::shared_ptr<const SplitPattern> pattern = Gpt2Pattern();
      steps_.push_back([pattern](Pieces& pieces) {
        Cut(*pattern, Behavior::kIsolated, /*invert=*/false, pieces);
      });
    }
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(const std::string mark,
                     json.StringOr("replacement", kSpaceMark));
    if (mark.empty() || DecodeAt(mark, 0).end != mark.size()) {
      return json.Error(
          absl::StrCat("replacement is \"", mark, "\"; want one character"));
    }
    ASSIGN_OR_RETURN(const Prepend prepend, ParsePrepend(json));
    ASSIGN_OR_RETURN(const bool split, json.BoolOr("split", true));
    steps_.push_back([mark, prepend](Pieces& pieces) {
      ChangeEach(pieces, [&](absl::string_view piece, bool is_first,
                             std::string& text) {
        const std::string marked = ReplaceAll(piece, " ", mark);
        if (!absl::StartsWith(marked, mark) &&
            (prepend == Prepend::kAlways ||
             (prepend == Prepend::kFirst && is_first))) {
          text += mark;
        }
        text += marked;
      });
    });
    if (split) {
      const std::shared_ptr<const SplitPattern> pattern = TextPattern(mark);
      steps_.push_back([pattern](Pieces& pieces) {
        Cut(*pattern, Behavior::kMergedWithNext, /*invert=*/false, pieces);
      });
    }
  } else {
    return json.Unsupported(
        absl::StrCat("there is no pre-tokenizer \"", type,
                     "\" here; supported are ByteLevel, Digits, Metaspace, "
                     "Sequence, Split"));
  }
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer> PreTokenizer::Parse(const JsonNode& json) {
  PreTokenizer pre_tokenizer;
  RETURN_IF_ERROR(pre_tokenizer.Add(json, /*depth=*/0));
  if (pre_tokenizer.steps_.size() > kMaxSteps) {
    return json.Error(absl::StrCat("has ", pre_tokenizer.steps_.size(),
                                   " steps; want at most ", kMaxSteps));
  }
  return pre_tokenizer;
}

Pieces PreTokenizer::Split(std::string text, bool at_start) const {
  Pieces pieces;
  pieces.text = std::move(text);
  pieces.at_start = at_start;
  if (pieces.text.empty()) return pieces;
  pieces.spans.push_back({0, pieces.text.size()});
  for (const Step& step : steps_) step(pieces);
  return pieces;
}

}  // namespace strata
