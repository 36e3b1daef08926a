// A stream of bytes as UTF-8 text: a model whose tokens are bytes makes them
// one at a time, and a reader must never see half a character.
//
//   bytes  E2 82 AC  FF  C3 (end)
//   text         €   U+FFFD  U+FFFD
//
// What is not UTF-8 becomes U+FFFD, one for each longest run of bytes that
// begins a character (the practice that Unicode recommends).

#ifndef CORE_TOKENIZER_UTF8_STREAM_H_
#define CORE_TOKENIZER_UTF8_STREAM_H_

#include <string>
#include <string_view>

namespace strata {

class Utf8Stream {
 public:
  // Takes the next byte; returns the text that is complete with it, often none.
  std::string Push(unsigned char byte);

  // Ends the stream: returns U+FFFD if it ended inside a character.
  std::string Finish();

 private:
  std::string pending_;       // The character begun.
  int num_missing_ = 0;       // Bytes of it to come.
  unsigned char low_ = 0x80;  // The range of the next one.
  unsigned char high_ = 0xBF;
};

// All of `bytes` as text.
std::string ToUtf8(std::string_view bytes);

}  // namespace strata

#endif  // CORE_TOKENIZER_UTF8_STREAM_H_
