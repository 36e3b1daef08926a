#include "training/data/clean_text.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/check.h"

namespace strata {
namespace {

// FNV-1a, 64 bits.
constexpr uint64_t kFnvOffset = 0xcbf29ce484222325;
constexpr uint64_t kFnvPrime = 0x100000001b3;

// Takes the first line off `text`, its line end included.
std::string_view TakeLine(std::string_view& text) {
  const size_t end = text.find('\n');
  const size_t size = end == std::string_view::npos ? text.size() : end + 1;
  const std::string_view line = text.substr(0, size);
  text.remove_prefix(size);
  return line;
}

bool IsLetterOrDigit(char c) {
  // Bytes of a UTF-8 sequence count as letters.
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c >= '0' && c <= '9') || static_cast<unsigned char>(c) >= 0x80;
}

bool EndsParagraph(std::string_view line) {
  return line.find_first_not_of(" \t\n/*#.") == std::string_view::npos;
}

// Starts with "*** START OF", or END, of "THE" or "THIS PROJECT GUTENBERG".
bool IsFrame(std::string_view line, std::string_view mark) {
  return line.substr(0, mark.size()) == mark &&
         line.find("PROJECT GUTENBERG") != std::string_view::npos;
}

}  // namespace

std::string NormaliseLines(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    text.remove_prefix(kByteOrderMark.size());
  }
  std::string lines;
  lines.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      if (i + 1 == text.size() || text[i + 1] != '\n') lines += '\n';
    } else if (text[i] == '\b') {
      if (!lines.empty() && lines.back() != '\n') lines.pop_back();
    } else {
      lines += text[i];
    }
  }
  return lines;
}

std::string_view StripGutenbergFrame(std::string_view text) {
  std::string_view book = text;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t line_start = text.size() - rest.size();
    const std::string_view line = TakeLine(rest);
    if (IsFrame(line, "*** START OF")) book = rest;
    if (IsFrame(line, "*** END OF")) {
      const size_t book_start = text.size() - book.size();
      return text.substr(book_start, line_start - book_start);
    }
  }
  return book;
}

std::string JoinFortunes(std::string_view text) {
  std::string sayings;
  sayings.reserve(text.size());
  while (!text.empty()) {
    const std::string_view line = TakeLine(text);
    if (line == "%\n" || line == "%") {
      sayings += '\n';
    } else {
      sayings += line;
    }
  }
  return sayings;
}

std::string_view LicenceOfPerlModule(std::string_view text) {
  while (!text.empty()) {
    if (TakeLine(text) == "__LICENSE__\n") return text;
  }
  return {};
}

bool RepeatedParagraphs::Remember() {
  if (word_.size() < kShortest) return true;
  size_t num_known = 0;
  const size_t num_runs = word_.size() - kRun + 1;
  for (size_t i = 0; i < num_runs; ++i) {
    uint64_t run = 0;
    for (size_t j = i; j < i + kRun; ++j) run = (run ^ word_[j]) * kFnvPrime;
    if (!seen_.insert(run).second) ++num_known;
  }
  return 2 * num_known < num_runs;
}

std::string RepeatedParagraphs::Drop(std::string_view text) {
  std::string kept;
  kept.reserve(text.size());
  while (!text.empty()) {
    // A paragraph with the empty line that ends it, if any.
    const std::string_view from = text;
    word_.clear();
    bool ended = false;
    while (!text.empty() && !ended) {
      const std::string_view line = TakeLine(text);
      ended = EndsParagraph(line);
      bool in_word = false;
      for (const char c : line) {
        if (!IsLetterOrDigit(c)) {
          in_word = false;
          continue;
        }
        if (!in_word) word_.push_back(kFnvOffset);
        in_word = true;
        const unsigned char lower = c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
        word_.back() = (word_.back() ^ lower) * kFnvPrime;
      }
    }
    if (Remember()) kept += from.substr(0, from.size() - text.size());
  }
  return kept;
}

std::vector<std::string_view> SplitIntoPieces(std::string_view text,
                                              size_t max_bytes) {
  CHECK(max_bytes > 0);
  std::vector<std::string_view> pieces;
  while (text.size() > max_bytes) {
    const std::string_view head = text.substr(0, max_bytes);
    size_t size = max_bytes;
    const size_t blank = head.rfind("\n\n");
    const size_t line_end = head.rfind('\n');
    if (blank != std::string_view::npos && blank + 2 > max_bytes / 2) {
      size = blank + 2;
    } else if (line_end != std::string_view::npos) {
      size = line_end + 1;
    }
    pieces.push_back(text.substr(0, size));
    text.remove_prefix(size);
  }
  if (!text.empty()) pieces.push_back(text);
  return pieces;
}

}  // namespace strata
