// The tokenizer of a model's folder: its tokenizer.json, and what the files
// beside it say of where texts begin and end.
//
//   tokenizer_config.json   bos_token, eos_token, add_bos_token
//   generation_config.json  eos_token_id, one or a list
//   config.json             the same, of models without the file above
//
//   prompt  "Hi"  ->  <bos> Hi      EncodePrompt
//   ids     ... <eos>               EndsText: a text is over before it
//
// All but tokenizer.json may be missing.

#ifndef CORE_TOKENIZER_MODEL_TOKENIZER_H_
#define CORE_TOKENIZER_MODEL_TOKENIZER_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/tokenizer.h"

namespace strata {

inline constexpr char kTokenizerFile[] = "tokenizer.json";
inline constexpr char kTokenizerConfigFile[] = "tokenizer_config.json";

// Whether there is a tokenizer.json in the folder.
bool HasTokenizer(const std::string& folder);

class ModelTokenizer {
 public:
  // Reads a folder, or a file. What lies beside a file counts if the file has
  // the name tokenizer.json.
  //
  // Returns the errors of Tokenizer::Load, and INVALID_ARGUMENT, naming the
  // file and the place, if one of the others is wrong.
  static absl::StatusOr<ModelTokenizer> Load(const std::string& path);

  // Ids of a text to be continued, framed as the model knows texts: with
  // add_bos_token, the token that it names goes first, or nothing does;
  // without, the post-processor of tokenizer.json decides. Special tokens are
  // found in the text unless it is to be text alone, as that of strangers is.
  std::vector<int32_t> EncodePrompt(absl::string_view text,
                                    bool find_special_tokens = true) const;

  // Ids of a chat that a template made, which writes the frame itself.
  std::vector<int32_t> EncodeChat(absl::string_view text) const;

  // Whether text ends before this id; all such ids, rising.
  bool EndsText(int32_t id) const { return end_tokens_.count(id) > 0; }
  const std::set<int32_t>& end_tokens() const { return end_tokens_; }

  // The token between documents: eos_token; if no file says, the only special
  // token, or the first that is called as such tokens are. Bpe::kNoId if there
  // is none.
  int32_t end_token() const { return end_token_; }

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const std::string& json() const { return json_; }  // tokenizer.json.

 private:
  enum class Begin { kPostProcessor, kToken, kNothing };

  ModelTokenizer(Tokenizer tokenizer, std::string json)
      : tokenizer_(std::move(tokenizer)), json_(std::move(json)) {}

  absl::Status ReadConfig(const std::string& path);
  absl::Status ReadEndIds(const std::string& path);
  void GuessEndToken();

  Tokenizer tokenizer_;
  std::string json_;
  Begin begin_ = Begin::kPostProcessor;
  int32_t begin_token_ = Bpe::kNoId;
  int32_t end_token_ = Bpe::kNoId;
  std::set<int32_t> end_tokens_;
};

// The tokenizer_config.json of a model that learned documents with `end_text`
// between them: each began behind one. With "" nothing was between them.
std::string EndTokenConfig(absl::string_view end_text);

}  // namespace strata

#endif  // CORE_TOKENIZER_MODEL_TOKENIZER_H_
