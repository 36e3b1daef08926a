// Functions that bring texts as packages ship them into the form in which a
// model should read them. Pure: text in, text out.

#ifndef TRAINING_DATA_CLEAN_TEXT_H_
#define TRAINING_DATA_CLEAN_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"

namespace strata {

// Returns `text` with LF line ends, without a byte order mark and without the
// overstrikes of line printers ("_" backspace "x" becomes "x").
std::string NormaliseLines(std::string_view text);

// Returns what lies between the lines "*** START OF" and "*** END OF" of a
// Project Gutenberg file, whose header and licence are no part of the book; all
// of a text without them.
std::string_view StripGutenbergFrame(std::string_view text);

// Returns the sayings of a fortune file, a blank line between them in place of
// the line "%".
std::string JoinFortunes(std::string_view text);

// Returns what follows the line "__LICENSE__" of a Perl module that carries a
// licence; nothing if there is no such line.
std::string_view LicenceOfPerlModule(std::string_view text);

// Drops paragraphs that say again what was said before, so that what a model is
// validated on is no copy of what it was trained on: the notice on top of each
// header, the same licence quoted by ten packages with a name changed.
//
// A paragraph ends at a line with nothing but white space and the marks that
// stand for an empty line in comments and in Debian's copyright files
// (/ * # .). Words are runs of letters and digits without regard to case, so
// neither wrapping nor the style of a comment matters. A paragraph is a repeat
// if half or more of its runs of kRun words occurred before. Short ones, of
// less than kShortest words, are always kept.
class RepeatedParagraphs {
 public:
  static constexpr size_t kRun = 6;
  static constexpr size_t kShortest = 12;

  // Returns `text` without the paragraphs that repeat an earlier call's text or
  // an earlier part of this.
  std::string Drop(std::string_view text);

 private:
  // Whether the paragraph of `word_` is new; remembers its runs.
  bool Remember();

  absl::flat_hash_set<uint64_t> seen_;  // Hashes of runs.
  std::vector<uint64_t> word_;          // Hashes of a paragraph's words.
};

// Cuts a long text into pieces of at most `max_bytes`, at the last blank line
// of each if it has one in its second half, else at the last line end, else
// anywhere. The pieces joined are the text.
std::vector<std::string_view> SplitIntoPieces(std::string_view text,
                                              size_t max_bytes);

}  // namespace strata

#endif  // TRAINING_DATA_CLEAN_TEXT_H_
