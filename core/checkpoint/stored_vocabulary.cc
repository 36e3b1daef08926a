#include "core/checkpoint/stored_vocabulary.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/mapped_file.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/gguf/gguf.h"
#include "core/checkpoint/hf_fields.h"
#include "core/tokenizer/vocabulary_files.h"

namespace strata {
namespace {

constexpr char kSpaceMark[] = "\xE2\x96\x81";  // U+2581

absl::StatusOr<TokenizerFiles> InFile(const std::string& path,
                                      absl::StatusOr<TokenizerFiles> files) {
  if (files.ok()) return files;
  if (absl::StartsWith(files.status().message(), path)) return files;
  return absl::Status(files.status().code(),
                      absl::StrCat(path, ": ", files.status().message()));
}

// The keys tokenizer.ggml.*.
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(file) {}

  absl::StatusOr<std::string> String(const char* key,
                                     absl::string_view absent) const {
    const GgufFile::Value* const value = Find(key);
    if (value == nullptr) return std::string(absent);
    if (const auto* text = std::get_if<std::string>(value)) return *text;
    return Wrong(key, "a string");
  }
  // An id, or -1 for none: files also say that by the largest number.
  absl::StatusOr<int32_t> Id(const char* key) const {
    const GgufFile::Value* const value = Find(key);
    if (value == nullptr) return -1;
    const auto* const id = std::get_if<int64_t>(value);
    if (id == nullptr) return Wrong(key, "an id");
    if (*id < 0 || *id == UINT32_MAX) return -1;
    if (*id > INT32_MAX) return Wrong(key, "an id");
    return static_cast<int32_t>(*id);
  }
  absl::StatusOr<bool> Bool(const char* key, bool absent) const {
    const GgufFile::Value* const value = Find(key);
    if (value == nullptr) return absent;
    const auto* const number = std::get_if<int64_t>(value);
    if (number == nullptr) return Wrong(key, "a truth value");
    return *number != 0;
  }
  absl::StatusOr<std::vector<std::string>> Strings(const char* key) const {
    const GgufList* const list = FindList(key);
    return list == nullptr ? std::vector<std::string>() : list->Strings();
  }
  absl::StatusOr<std::vector<double>> Numbers(const char* key) const {
    const GgufList* const list = FindList(key);
    return list == nullptr ? std::vector<double>() : list->Numbers();
  }

 private:
  const GgufFile::Value* Find(const char* key) const {
    const auto it = file_.metadata.find(absl::StrCat("tokenizer.", key));
    return it == file_.metadata.end() ? nullptr : &it->second;
  }
  const GgufList* FindList(const char* key) const {
    const auto it = file_.lists.find(absl::StrCat("tokenizer.", key));
    return it == file_.lists.end() ? nullptr : &it->second;
  }
  static absl::Status Wrong(const char* key, absl::string_view wanted) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the key tokenizer.", key, " is something else; want ", wanted));
  }

  const GgufFile& file_;
};

absl::StatusOr<TokenizerFiles> FromGguf(const GgufFile& file) {
  const Keys keys(file);
  ASSIGN_OR_RETURN(const std::string model, keys.String("ggml.model", ""));
  if (model.empty() || model == "no_vocab" || model == "none") {
    return absl::NotFoundError("the file has no vocabulary");
  }
  const bool has_scores = model == "llama";
  if (!has_scores && model != "gpt2") {
    return absl::UnimplementedError(
        absl::StrCat("there is no tokenizer.ggml.model ", Shown(model),
                     " here; supported are llama, gpt2"));
  }
  Vocabulary vocabulary;
  ASSIGN_OR_RETURN(vocabulary.tokens, keys.Strings("ggml.tokens"));
  ASSIGN_OR_RETURN(const std::vector<double> types,
                   keys.Numbers("ggml.token_type"));
  for (const double type : types) {
    // What has another type is in no text.
    const bool known = type >= 1 && type <= 6;
    vocabulary.types.push_back(
        known ? static_cast<PieceType>(static_cast<int32_t>(type))
              : PieceType::kUnused);
  }
  ASSIGN_OR_RETURN(const std::vector<double> scores,
                   keys.Numbers("ggml.scores"));
  vocabulary.scores.assign(scores.begin(), scores.end());
  ASSIGN_OR_RETURN(vocabulary.merges, keys.Strings("ggml.merges"));
  ASSIGN_OR_RETURN(vocabulary.splitter, keys.String("ggml.pre", ""));
  ASSIGN_OR_RETURN(vocabulary.begin_token, keys.Id("ggml.bos_token_id"));
  ASSIGN_OR_RETURN(vocabulary.end_token, keys.Id("ggml.eos_token_id"));
  ASSIGN_OR_RETURN(vocabulary.unknown_token, keys.Id("ggml.unknown_token_id"));
  // What the format says where the file does not: SentencePiece and Llama 3
  // begin with a token, other byte-level BPE does not.
  const bool is_llama3 = vocabulary.splitter == "llama-bpe" ||
                         vocabulary.splitter == "llama3" ||
                         vocabulary.splitter == "llama-v3";
  ASSIGN_OR_RETURN(vocabulary.adds_begin,
                   keys.Bool("ggml.add_bos_token", has_scores || is_llama3));
  ASSIGN_OR_RETURN(vocabulary.adds_space_prefix,
                   keys.Bool("ggml.add_space_prefix", true));
  ASSIGN_OR_RETURN(vocabulary.chat_template, keys.String("chat_template", ""));
  return has_scores ? SentencePieceFiles(vocabulary)
                    : ByteLevelFiles(vocabulary);
}

absl::StatusOr<TokenizerFiles> FromLlama2c(absl::string_view bytes) {
  constexpr size_t kNumSpecial = 3;
  constexpr size_t kNumBytes = 256;
  const auto error = [](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("no vocabulary of llama2.c: ", what));
  };
  int32_t longest = 0;
  if (bytes.size() < sizeof(longest)) return error("it has no header");
  std::memcpy(&longest, bytes.data(), sizeof(longest));
  bytes.remove_prefix(sizeof(longest));
  Vocabulary vocabulary;
  while (!bytes.empty()) {
    const size_t id = vocabulary.tokens.size();
    float score = 0;
    int32_t size = 0;
    if (bytes.size() < sizeof(score) + sizeof(size)) {
      return error(absl::StrCat("it ends within token ", id));
    }
    std::memcpy(&score, bytes.data(), sizeof(score));
    std::memcpy(&size, bytes.data() + sizeof(score), sizeof(size));
    bytes.remove_prefix(sizeof(score) + sizeof(size));
    if (size < 0 || static_cast<size_t>(size) > bytes.size()) {
      return error(absl::StrCat("token ", id, " has ", size, " bytes, of ",
                                bytes.size(), " that are left"));
    }
    // The exporter writes spaces for the marks, and puts line ends around the
    // control tokens.
    vocabulary.tokens.push_back(
        absl::StrReplaceAll(bytes.substr(0, size), {{" ", kSpaceMark}}));
    vocabulary.scores.push_back(score);
    vocabulary.types.push_back(id == 0            ? PieceType::kUnknown
                               : id < kNumSpecial ? PieceType::kControl
                               : id < kNumSpecial + kNumBytes
                                   ? PieceType::kByte
                                   : PieceType::kNormal);
    bytes.remove_prefix(size);
  }
  if (vocabulary.tokens.size() < kNumSpecial + kNumBytes ||
      vocabulary.tokens[kNumSpecial] != "<0x00>") {
    return error(absl::StrCat("it has ", vocabulary.tokens.size(),
                              " tokens; want <unk>, <s>, </s>, <0x00> to "
                              "<0xFF>, and pieces"));
  }
  vocabulary.tokens[0] = "<unk>";
  vocabulary.tokens[1] = "<s>";
  vocabulary.tokens[2] = "</s>";
  vocabulary.unknown_token = 0;
  vocabulary.begin_token = 1;
  vocabulary.end_token = 2;
  vocabulary.adds_begin = true;
  return SentencePieceFiles(vocabulary);
}

}  // namespace

absl::StatusOr<TokenizerFiles> ParseGgufVocabulary(const std::string& path,
                                                   absl::string_view bytes) {
  ASSIGN_OR_RETURN(const GgufFile file, ParseGguf(path, bytes));
  return InFile(path, FromGguf(file));
}

absl::StatusOr<TokenizerFiles> ParseLlama2cVocabulary(const std::string& path,
                                                      absl::string_view bytes) {
  return InFile(path, FromLlama2c(bytes));
}

absl::StatusOr<TokenizerFiles> OpenVocabulary(const std::string& path) {
  if (absl::EndsWith(path, ".gguf")) {
    ASSIGN_OR_RETURN(const MappedFile mapping, MappedFile::Open(path));
    return ParseGgufVocabulary(path, mapping.bytes());
  }
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  return ParseLlama2cVocabulary(path, bytes);
}

}  // namespace strata
