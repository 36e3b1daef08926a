#include "training/data/corpus.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "training/data/token_ids.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLeastValidationBytes = 4096;

// Returns where the part of `text` begins that is for validation, given that
// about `num_bytes` are wanted: at the start of a line if one starts there.
size_t ValidationStart(std::string_view text, size_t num_bytes) {
  const size_t start = text.size() - num_bytes;
  const size_t line_end = text.find('\n', start);
  return line_end == std::string_view::npos || line_end + 1 == text.size()
             ? start
             : line_end + 1;
}

// Leaves out what the split must not see: byte 0, texts that are empty, and
// copies of an earlier text. Returns how many copies there were.
int DropCopies(absl::flat_hash_set<std::pair<uint64_t, size_t>>& seen,
               std::vector<Document>& documents) {
  int num_copies = 0;
  const auto dropped = std::remove_if(
      documents.begin(), documents.end(), [&](Document& document) {
        std::string& text = document.text;
        text.erase(std::remove(text.begin(), text.end(), kDocumentBoundary),
                   text.end());
        if (text.empty()) return true;
        if (seen.emplace(HashName(text), text.size()).second) return false;
        ++num_copies;
        return true;
      });
  documents.erase(dropped, documents.end());
  return num_copies;
}

Domain SplitDomain(const DomainDocuments& from) {
  size_t num_bytes = 0;
  std::vector<std::tuple<uint64_t, std::string_view, size_t>> order;
  for (size_t i = 0; i < from.documents.size(); ++i) {
    const Document& document = from.documents[i];
    num_bytes += document.text.size();
    order.emplace_back(HashName(document.path), document.path, i);
  }
  std::sort(order.begin(), order.end());

  // Where the validation part of each document begins.
  std::vector<size_t> start(from.documents.size());
  for (size_t i = 0; i < start.size(); ++i) {
    start[i] = from.documents[i].text.size();
  }
  size_t wanted = NumValidationBytes(num_bytes);
  for (const auto& [hash, path, i] : order) {
    const std::string& text = from.documents[i].text;
    if (text.size() > wanted) {
      if (wanted > 0) start[i] = ValidationStart(text, wanted);
      break;
    }
    start[i] = 0;
    wanted -= text.size();
  }

  Domain domain{from.name, std::string(1, kDocumentBoundary),
                std::string(1, kDocumentBoundary)};
  for (size_t i = 0; i < from.documents.size(); ++i) {
    const std::string& text = from.documents[i].text;
    if (start[i] > 0) {
      domain.train.append(text, 0, start[i]);
      domain.train += kDocumentBoundary;
    }
    if (start[i] < text.size()) {
      domain.validation.append(text, start[i], std::string::npos);
      domain.validation += kDocumentBoundary;
    }
  }
  return domain;
}

std::string HashDomains(const std::vector<Domain>& domains) {
  Sha256 sha256;
  for (const Domain& domain : domains) {
    // Lengths first, so that no two lists of domains give the same bytes.
    sha256.Update(absl::StrCat(domain.name.size(), " ", domain.train.size(),
                               " ", domain.validation.size(), "\n"));
    sha256.Update(domain.name);
    sha256.Update(domain.train);
    sha256.Update(domain.validation);
  }
  return sha256.HexDigest();
}

// Whether a part of the path begins with a dot.
bool IsHidden(std::string_view path) {
  return path.front() == '.' || path.find("/.") != std::string_view::npos;
}

// The names in a folder that are not hidden, in the order of their bytes.
absl::StatusOr<std::vector<std::string>> ListNames(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().native();
    if (!IsHidden(name)) names.push_back(name);
  }
  if (error) return FileError(error.value(), "list", folder);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::vector<Document>> ReadDocuments(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> paths, ListFiles(folder));
  std::vector<Document> documents;
  for (const std::string& path : paths) {
    if (IsHidden(path)) continue;
    ASSIGN_OR_RETURN(std::string text,
                     ReadFile(absl::StrCat(folder, "/", path)));
    documents.push_back({path, std::move(text)});
  }
  return documents;
}

}  // namespace

size_t NumValidationBytes(size_t num_bytes) {
  return std::max(num_bytes / 10,
                  std::min(kLeastValidationBytes, num_bytes / 2));
}

bool IsUtf8(const std::string& text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const unsigned char* const end = p + text.size();
  const auto continues = [](unsigned char c) { return (c & 0xC0) == 0x80; };
  while (p < end) {
    const int size = *p < 0x80   ? 1
                     : *p < 0xC2 ? 0  // A continuation, or an overlong pair.
                     : *p < 0xE0 ? 2
                     : *p < 0xF0 ? 3
                     : *p < 0xF5 ? 4
                                 : 0;
    if (size == 0 || size > end - p) return false;
    for (int i = 1; i < size; ++i) {
      if (!continues(p[i])) return false;
    }
    // Overlong, a surrogate, or above U+10FFFF.
    if ((*p == 0xE0 && p[1] < 0xA0) || (*p == 0xED && p[1] > 0x9F) ||
        (*p == 0xF0 && p[1] < 0x90) || (*p == 0xF4 && p[1] > 0x8F)) {
      return false;
    }
    p += size;
  }
  return true;
}

absl::StatusOr<Corpus> MakeCorpus(std::vector<DomainDocuments> domains) {
  Corpus corpus;
  absl::flat_hash_set<std::pair<uint64_t, size_t>> seen;
  int num_copies = 0;
  int num_not_utf8 = 0;
  std::string first_not_utf8;
  for (DomainDocuments& domain : domains) {
    num_copies += DropCopies(seen, domain.documents);
    if (domain.documents.empty()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "domain \"%s\" has no text; want at least one file that is not empty "
          "and no copy of another",
          domain.name));
    }
    for (const Document& document : domain.documents) {
      if (IsUtf8(document.text)) continue;
      if (num_not_utf8++ == 0) {
        first_not_utf8 = absl::StrCat(domain.name, "/", document.path);
      }
    }
    corpus.domains.push_back(SplitDomain(domain));
  }
  if (num_not_utf8 > 0) {
    corpus.notes.push_back(absl::StrFormat(
        "%d file%s not UTF-8 and used as bytes, the first of them \"%s\"",
        num_not_utf8, num_not_utf8 == 1 ? " is" : "s are", first_not_utf8));
  }
  if (num_copies > 0) {
    corpus.notes.push_back(absl::StrFormat(
        "%d file%s left out that repeat%s another's text", num_copies,
        num_copies == 1 ? " was" : "s were", num_copies == 1 ? "s" : ""));
  }
  corpus.sha256 = HashDomains(corpus.domains);
  return corpus;
}

absl::StatusOr<Corpus> LoadFolderCorpus(const std::string& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(absl::StrFormat(
        "data folder \"%s\" does not exist; want a folder with a subfolder for "
        "each domain",
        folder));
  }
  if (!fs::is_directory(status)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "\"%s\" is not a folder; want a folder with a subfolder for each "
        "domain",
        folder));
  }

  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListNames(folder));
  if (names.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "data folder \"%s\" is empty; want a subfolder for each domain",
        folder));
  }
  std::vector<DomainDocuments> domains;
  std::vector<std::string> loose;  // Files beside the domains.
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder, "/", name);
    if (!fs::is_directory(path, error)) {
      loose.push_back(name);
      continue;
    }
    ASSIGN_OR_RETURN(std::vector<Document> documents, ReadDocuments(path));
    domains.push_back({name, std::move(documents)});
  }
  if (domains.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "data folder \"%s\" has files but no subfolder; want a subfolder for "
        "each domain, with the files in it",
        folder));
  }

  ASSIGN_OR_RETURN(Corpus corpus, MakeCorpus(std::move(domains)));
  corpus.sources.push_back(absl::StrCat("folder ", folder));
  if (!loose.empty()) {
    corpus.notes.push_back(absl::StrFormat(
        "%d file%s in \"%s\" itself and so in no domain, the first of them "
        "\"%s\": left out",
        loose.size(), loose.size() == 1 ? " is" : "s are", folder, loose[0]));
  }
  return corpus;
}

int64_t Domain::NumTokens(CorpusPart part) const {
  const bool is_train = part == CorpusPart::kTrain;
  const TokenIds& ids = is_train ? train_ids : validation_ids;
  if (!ids.empty()) return ids.size();
  return static_cast<int64_t>((is_train ? train : validation).size());
}

void Domain::CopyTokens(CorpusPart part, int64_t first,
                        absl::Span<int32_t> tokens) const {
  const bool is_train = part == CorpusPart::kTrain;
  const TokenIds& ids = is_train ? train_ids : validation_ids;
  if (!ids.empty()) {
    ids.Copy(first, tokens);
    return;
  }
  const std::string& bytes = is_train ? train : validation;
  CHECK(first >= 0 && first + tokens.size() <= bytes.size())
      << tokens.size() << " bytes from " << first << " on, of " << bytes.size();
  const auto* from =
      reinterpret_cast<const unsigned char*>(bytes.data()) + first;
  std::copy_n(from, tokens.size(), tokens.begin());
}

int64_t Domain::NumValidationTextBytes(int64_t first,
                                       int64_t num_tokens) const {
  if (validation_ids.empty()) return num_tokens;
  return validation_bytes[first + num_tokens] - validation_bytes[first];
}

absl::Status CheckLongEnough(const Corpus& corpus, int64_t seq_len) {
  for (const Domain& domain : corpus.domains) {
    for (const auto& [use, part] :
         {std::pair("training", CorpusPart::kTrain),
          std::pair("validation", CorpusPart::kValidation)}) {
      const int64_t num_tokens = domain.NumTokens(part);
      if (num_tokens > seq_len) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "domain \"%s\" is too small: it has %d %s for %s, and sequences "
          "of %d want at least %d",
          domain.name, num_tokens, corpus.tokenizer ? "tokens" : "bytes", use,
          seq_len, seq_len + 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
