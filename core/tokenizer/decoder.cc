#include "core/tokenizer/decoder.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/unicode.h"
#include "core/tokenizer/utf8_stream.h"

namespace strata {
namespace {

constexpr int kMaxDepth = 16;
constexpr char kSpaceMark[] = "\xE2\x96\x81";    // U+2581
constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

class JoinBySpaces : public DecodeStep {
 public:
  void Push(absl::string_view token, const Sink& sink) override {
    sink(is_first_ ? std::string(token) : absl::StrCat(" ", token));
    is_first_ = false;
  }

 private:
  bool is_first_ = true;
};

// Tokens with a character outside of the alphabet, such as added ones, are
// themselves.
class ByteLevel : public DecodeStep {
 public:
  void Push(absl::string_view token, const Sink& sink) override {
    std::string bytes;
    if (!FromByteLevel(token, bytes)) bytes = std::string(token);
    std::string text;
    for (const char byte : bytes) {
      text += stream_.Push(static_cast<unsigned char>(byte));
    }
    if (!text.empty()) sink(text);
  }

  void Finish(const Sink& sink) override {
    const std::string text = stream_.Finish();
    if (!text.empty()) sink(text);
  }

 private:
  Utf8Stream stream_;
};

// A run of tokens <0x00> to <0xFF> is the text that its bytes are; if they are
// none, each is U+FFFD. So a run could only be given when it has ended; but it
// is valid as far as its characters are, and what is no character spoils all of
// it. Runs are short, so they are held back.
class ByteFallback : public DecodeStep {
 public:
  void Push(absl::string_view token, const Sink& sink) override {
    uint32_t byte = 0;
    if (token.size() == 6 && absl::StartsWith(token, "<0x") &&
        token.back() == '>' && absl::SimpleHexAtoi(token.substr(3, 2), &byte)) {
      run_ += static_cast<char>(byte);
      return;
    }
    Finish(sink);
    sink(token);
  }

  void Finish(const Sink& sink) override {
    if (run_.empty()) return;
    const std::string run = std::exchange(run_, "");
    if (FindInvalidUtf8(run) == absl::string_view::npos) {
      sink(run);
      return;
    }
    for (size_t i = 0; i < run.size(); ++i) sink(kReplacement);
  }

 private:
  std::string run_;
};

class ReplaceInToken : public DecodeStep {
 public:
  ReplaceInToken(std::string from, std::string to)
      : from_(std::move(from)), to_(std::move(to)) {}

  void Push(absl::string_view token, const Sink& sink) override {
    sink(ReplaceAll(token, from_, to_));
  }

 private:
  const std::string from_;
  const std::string to_;
};

// In the first token, marks are left out; in others they are spaces.
class Metaspace : public DecodeStep {
 public:
  Metaspace(std::string mark, bool strips)
      : mark_(std::move(mark)), strips_(strips) {}

  void Push(absl::string_view token, const Sink& sink) override {
    sink(ReplaceAll(token, mark_, strips_ && is_first_ ? "" : " "));
    is_first_ = false;
  }

 private:
  const std::string mark_;
  const bool strips_;
  bool is_first_ = true;
};

// How many of the first `most` characters are `content`, in bytes.
size_t LeadingBytes(absl::string_view text, absl::string_view content,
                    size_t most) {
  size_t bytes = 0;
  for (size_t i = 0; i < most; ++i) {
    if (!absl::StartsWith(text.substr(bytes), content)) break;
    bytes += content.size();
  }
  return bytes;
}

size_t TrailingBytes(absl::string_view text, absl::string_view content,
                     size_t most) {
  size_t bytes = 0;
  for (size_t i = 0; i < most; ++i) {
    if (!absl::EndsWith(text.substr(0, text.size() - bytes), content)) break;
    bytes += content.size();
  }
  return bytes;
}

// Cuts a character off both ends of each token, so often at most.
class StripToken : public DecodeStep {
 public:
  StripToken(std::string content, size_t start, size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}

  void Push(absl::string_view token, const Sink& sink) override {
    token.remove_prefix(LeadingBytes(token, content_, start_));
    token.remove_suffix(TrailingBytes(token, content_, stop_));
    sink(token);
  }

 private:
  const std::string content_;
  const size_t start_;
  const size_t stop_;
};

// The same for a text that comes in parts: what may be its end is held back.
class StripText : public DecodeStep {
 public:
  StripText(std::string content, size_t start, size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}

  void Push(absl::string_view part, const Sink& sink) override {
    std::string text = std::exchange(held_, "");
    while (start_ > 0 && absl::StartsWith(part, content_)) {
      part.remove_prefix(content_.size());
      --start_;
    }
    if (!part.empty()) start_ = 0;
    absl::StrAppend(&text, part);
    const size_t held = TrailingBytes(text, content_, stop_);
    held_ = text.substr(text.size() - held);
    text.resize(text.size() - held);
    if (!text.empty()) sink(text);
  }

 private:
  const std::string content_;
  size_t start_;  // How many more may be cut off at the start.
  const size_t stop_;
  std::string held_;
};

absl::StatusOr<size_t> ParseCount(const JsonNode& json, absl::string_view key) {
  constexpr int64_t kMaxCount = 1024;
  ASSIGN_OR_RETURN(const int64_t count, json.Integer(key));
  if (count < 0 || count > kMaxCount) {
    return json.Error(
        absl::StrCat(key, " is ", count, "; want 0 to ", kMaxCount));
  }
  return static_cast<size_t>(count);
}

absl::StatusOr<std::string> ParseCharacter(const JsonNode& json,
                                           absl::string_view key,
                                           absl::string_view fallback) {
  ASSIGN_OR_RETURN(std::string text, json.StringOr(key, fallback));
  if (text.empty() || DecodeAt(text, 0).end != text.size()) {
    return json.Error(
        absl::StrCat(key, " is \"", text, "\"; want one character"));
  }
  return text;
}

}  // namespace

TokenDecoder::TokenDecoder() {
  steps_.push_back([] { return std::make_unique<JoinBySpaces>(); });
}

absl::Status TokenDecoder::Add(const JsonNode& json, int depth) {
  if (depth > kMaxDepth) {
    return json.Error(absl::StrCat("nests deeper than ", kMaxDepth));
  }
  ASSIGN_OR_RETURN(const std::string type, json.String("type"));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const auto items, json.Array("decoders"));
    for (const JsonNode& item : items) RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  if (type == "Fuse") {
    is_fused_ = true;
    return absl::OkStatus();
  }
  if (type == "Strip") {
    ASSIGN_OR_RETURN(const std::string content,
                     ParseCharacter(json, "content", " "));
    ASSIGN_OR_RETURN(const size_t start, ParseCount(json, "start"));
    ASSIGN_OR_RETURN(const size_t stop, ParseCount(json, "stop"));
    if (is_fused_) {
      steps_.push_back(
          [=] { return std::make_unique<StripText>(content, start, stop); });
    } else {
      steps_.push_back(
          [=] { return std::make_unique<StripToken>(content, start, stop); });
    }
    return absl::OkStatus();
  }

  MakeStep step;
  if (type == "ByteLevel") {
    step = [] { return std::make_unique<ByteLevel>(); };
  } else if (type == "ByteFallback") {
    step = [] { return std::make_unique<ByteFallback>(); };
  } else if (type == "Replace") {
    ASSIGN_OR_RETURN(const std::string from, ParseStringPattern(json));
    ASSIGN_OR_RETURN(const std::string to, json.String("content"));
    if (to.size() > from.size() * 64) {
      return json.Error(absl::StrCat("content has ", to.size(),
                                     " bytes; want at most 64 times those of "
                                     "the pattern, ",
                                     from.size()));
    }
    step = [=] { return std::make_unique<ReplaceInToken>(from, to); };
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(const std::string mark,
                     ParseCharacter(json, "replacement", kSpaceMark));
    ASSIGN_OR_RETURN(const bool add_space,
                     json.BoolOr("add_prefix_space", true));
    ASSIGN_OR_RETURN(
        const std::string scheme,
        json.StringOr("prepend_scheme", add_space ? "always" : "never"));
    const bool strips = scheme != "never";
    step = [=] { return std::make_unique<Metaspace>(mark, strips); };
  } else {
    return json.Unsupported(
        absl::StrCat("there is no decoder \"", type,
                     "\" here; supported are ByteFallback, ByteLevel, Fuse, "
                     "Metaspace, Replace, Sequence, Strip"));
  }
  // These work token by token, and behind Fuse there is one token.
  if (is_fused_) {
    return json.Unsupported(
        absl::StrCat(type,
                     " comes after the tokens are joined, where only "
                     "Strip is supported"));
  }
  if (type == "ByteLevel") is_fused_ = true;
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<TokenDecoder> TokenDecoder::Parse(const JsonNode& json) {
  constexpr size_t kMaxSteps = 64;
  TokenDecoder decoder;
  decoder.steps_.clear();
  RETURN_IF_ERROR(decoder.Add(json, /*depth=*/0));
  if (decoder.steps_.size() > kMaxSteps) {
    return json.Error(absl::StrCat("has ", decoder.steps_.size(),
                                   " steps; want at most ", kMaxSteps));
  }
  return decoder;
}

std::vector<std::unique_ptr<DecodeStep>> TokenDecoder::NewSteps() const {
  std::vector<std::unique_ptr<DecodeStep>> steps;
  for (const MakeStep& make : steps_) steps.push_back(make());
  return steps;
}

void DecodeChain::PushFrom(size_t step, absl::string_view token,
                           std::string& text) {
  if (step == steps_.size()) {
    absl::StrAppend(&text, token);
    return;
  }
  steps_[step]->Push(
      token, [&](absl::string_view next) { PushFrom(step + 1, next, text); });
}

std::string DecodeChain::Push(absl::string_view token) {
  std::string text;
  PushFrom(0, token, text);
  return text;
}

std::string DecodeChain::Finish() {
  std::string text;
  for (size_t i = 0; i < steps_.size(); ++i) {
    steps_[i]->Finish(
        [&](absl::string_view next) { PushFrom(i + 1, next, text); });
  }
  return text;
}

}  // namespace strata
