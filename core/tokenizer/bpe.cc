#include "core/tokenizer/bpe.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

// Longer pieces hardly come twice.
constexpr size_t kMaxSeenBytes = 256;
constexpr size_t kMaxSeenPieces = 1 << 16;
// Symbols are counted in 32 bits.
constexpr size_t kMaxPieceBytes = size_t{1} << 30;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 |
         static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<Bpe> Bpe::Parse(const JsonNode& json, bool is_byte_level) {
  // Files of before 2020 have no type.
  ASSIGN_OR_RETURN(const std::string type, json.StringOr("type", "BPE"));
  if (type != "BPE") {
    return json.Unsupported(absl::StrCat("there is no model \"", type,
                                         "\" here; supported is BPE"));
  }
  if (json.Has("dropout") && json.json()["dropout"] != 0) {
    return json.Unsupported("dropout would make ids random; want null or 0");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, json.StringOr(key, ""));
    if (!affix.empty()) {
      return json.Unsupported(
          absl::StrCat(key, " is \"", affix, "\"; want null"));
    }
  }

  Bpe bpe;
  bpe.is_byte_level_ = is_byte_level;
  RETURN_IF_ERROR(bpe.ParseVocabulary(json));
  RETURN_IF_ERROR(bpe.ParseMerges(json));
  ASSIGN_OR_RETURN(bpe.byte_fallback_, json.BoolOr("byte_fallback", false));
  ASSIGN_OR_RETURN(bpe.fuse_unknown_, json.BoolOr("fuse_unk", false));
  ASSIGN_OR_RETURN(bpe.ignore_merges_, json.BoolOr("ignore_merges", false));
  if (json.Has("unk_token")) {
    ASSIGN_OR_RETURN(const std::string unknown, json.String("unk_token"));
    bpe.unknown_id_ = bpe.Find(unknown);
    if (bpe.unknown_id_ == kNoId) {
      return json.Error(absl::StrCat("unk_token is \"", unknown,
                                     "\", which the vocabulary lacks"));
    }
  }
  bpe.FillByteIds();
  return bpe;
}

absl::Status Bpe::ParseVocabulary(const JsonNode& json) {
  ASSIGN_OR_RETURN(const JsonNode vocabulary, json.Object("vocab"));
  const nlohmann::json& entries = vocabulary.json();
  int32_t id_limit = 0;
  for (const auto& [token, value] : entries.items()) {
    if (!value.is_number_integer() || value < 0 || value >= kMaxIds) {
      return vocabulary.Error(absl::StrCat("the id of \"", token, "\" is ",
                                           value.dump(), "; want 0 to ",
                                           kMaxIds - 1));
    }
    id_limit = std::max(id_limit, value.get<int32_t>() + 1);
  }
  tokens_.resize(id_limit);
  ids_.reserve(entries.size());
  for (const auto& [token, value] : entries.items()) {
    const int32_t id = value.get<int32_t>();
    if (const std::string* const other = TokenOf(id)) {
      return vocabulary.Error(absl::StrCat("\"", *other, "\" and \"", token,
                                           "\" have one id, ", id));
    }
    tokens_[id] = token;
    ids_.emplace(tokens_[id], id);
  }
  return absl::OkStatus();
}

absl::Status Bpe::ParseMerges(const JsonNode& json) {
  ASSIGN_OR_RETURN(const auto items, json.Array("merges"));
  merges_.reserve(items.size());
  uint32_t rank = 0;
  for (const JsonNode& item : items) {
    const nlohmann::json& merge = item.json();
    absl::Status status;
    if (merge.is_string()) {
      const absl::string_view text = merge.get_ref<const std::string&>();
      if (absl::StartsWith(text, "#version")) continue;
      const size_t space = text.find(' ');
      if (space == absl::string_view::npos ||
          text.find(' ', space + 1) != absl::string_view::npos) {
        return item.Error(
            absl::StrCat("is \"", text, "\"; want two tokens and one space"));
      }
      status = AddMerge(text.substr(0, space), text.substr(space + 1), rank);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      status = AddMerge(merge[0].get_ref<const std::string&>(),
                        merge[1].get_ref<const std::string&>(), rank);
    } else {
      return item.Error("is neither \"a b\" nor [\"a\", \"b\"]");
    }
    if (!status.ok()) return item.Error(status.message());
    ++rank;
  }
  return absl::OkStatus();
}

absl::Status Bpe::AddMerge(absl::string_view left, absl::string_view right,
                           uint32_t rank) {
  const auto find = [&](absl::string_view token) -> absl::StatusOr<int32_t> {
    const int32_t id = Find(token);
    if (id != kNoId) return id;
    return absl::InvalidArgumentError(
        absl::StrCat("the vocabulary lacks \"", token, "\""));
  };
  ASSIGN_OR_RETURN(const int32_t left_id, find(left));
  ASSIGN_OR_RETURN(const int32_t right_id, find(right));
  ASSIGN_OR_RETURN(const int32_t id, find(absl::StrCat(left, right)));
  merges_[PairKey(left_id, right_id)] = {rank, id};
  return absl::OkStatus();
}

void Bpe::FillByteIds() {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_ids_[byte] = Find(ToByteLevel(absl::string_view(&c, 1)));
    fallback_ids_[byte] = Find(absl::StrFormat("<0x%02X>", byte));
  }
}

int32_t Bpe::Find(absl::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? kNoId : it->second;
}

const std::string* Bpe::TokenOf(int32_t id) const {
  if (id < 0 || id >= id_limit() || Find(tokens_[id]) != id) return nullptr;
  return &tokens_[id];
}

void Bpe::Encode(absl::string_view piece, Scratch& scratch,
                 std::vector<int32_t>& ids) const {
  if (piece.size() > kMaxSeenBytes) {
    // What is longer than the counters hold is merged in parts.
    while (piece.size() > kMaxPieceBytes) {
      const size_t cut = PreviousBegin(piece, kMaxPieceBytes);
      EncodeAnew(piece.substr(0, cut), scratch, ids);
      piece.remove_prefix(cut);
    }
    EncodeAnew(piece, scratch, ids);
    return;
  }
  const auto it = scratch.seen_.find(piece);
  if (it != scratch.seen_.end()) {
    const auto first = scratch.seen_ids_.begin() + it->second.first;
    ids.insert(ids.end(), first, first + it->second.second);
    return;
  }
  const size_t begin = ids.size();
  EncodeAnew(piece, scratch, ids);
  if (scratch.seen_.size() >= kMaxSeenPieces) {
    scratch.seen_.clear();
    scratch.seen_ids_.clear();
  }
  scratch.seen_.emplace(
      piece, std::pair(scratch.seen_ids_.size(), ids.size() - begin));
  scratch.seen_ids_.insert(scratch.seen_ids_.end(), ids.begin() + begin,
                           ids.end());
}

void Bpe::EncodeAnew(absl::string_view piece, Scratch& scratch,
                     std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const int32_t id = is_byte_level_ ? Find(ToByteLevel(piece)) : Find(piece);
    if (id != kNoId) {
      ids.push_back(id);
      return;
    }
  }
  SplitIntoSymbols(piece, scratch);
  MergeSymbols(scratch);
  for (const Scratch::Symbol& symbol : scratch.symbols_) {
    if (symbol.id != kNoId) ids.push_back(symbol.id);
  }
}

void Bpe::SplitIntoSymbols(absl::string_view piece, Scratch& scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch.symbols_;
  symbols.clear();
  const auto push = [&](int32_t id) {
    const int32_t index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1});
  };
  bool last_is_unknown = false;
  // `spelling`: the character as the vocabulary has it.
  const auto push_without_token = [&](absl::string_view spelling) {
    const auto fallback = [&](char byte) {
      return fallback_ids_[static_cast<unsigned char>(byte)];
    };
    if (byte_fallback_ &&
        std::all_of(spelling.begin(), spelling.end(),
                    [&](char byte) { return fallback(byte) != kNoId; })) {
      for (const char byte : spelling) push(fallback(byte));
      last_is_unknown = false;
    } else if (unknown_id_ != kNoId) {
      if (!fuse_unknown_ || !last_is_unknown) push(unknown_id_);
      last_is_unknown = true;
    }
  };

  for (size_t pos = 0; pos < piece.size();) {
    size_t end = pos + 1;
    int32_t id = kNoId;
    if (is_byte_level_) {
      id = byte_ids_[static_cast<unsigned char>(piece[pos])];
    } else {
      end = DecodeAt(piece, pos).end;
      id = Find(piece.substr(pos, end - pos));
    }
    const absl::string_view character = piece.substr(pos, end - pos);
    if (id != kNoId) {
      push(id);
      last_is_unknown = false;
    } else {
      push_without_token(is_byte_level_ ? ToByteLevel(character)
                                        : std::string(character));
    }
    pos = end;
  }
  if (!symbols.empty()) symbols.back().next = -1;
}

void Bpe::PushCandidate(int32_t position, Scratch& scratch) const {
  ++scratch.num_steps_;
  const Scratch::Symbol& symbol = scratch.symbols_[position];
  if (symbol.next < 0) return;
  const int32_t right = scratch.symbols_[symbol.next].id;
  const auto it = merges_.find(PairKey(symbol.id, right));
  if (it == merges_.end()) return;
  scratch.heap_.push_back(
      {it->second.rank, position, symbol.id, right, it->second.id});
  std::push_heap(scratch.heap_.begin(), scratch.heap_.end());
}

void Bpe::MergeSymbols(Scratch& scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch.symbols_;
  std::vector<Scratch::Candidate>& heap = scratch.heap_;
  heap.clear();
  for (size_t i = 0; i < symbols.size(); ++i) {
    PushCandidate(static_cast<int32_t>(i), scratch);
  }
  // Each merge takes a symbol away and adds two candidates at most, so there
  // are fewer than 3 n candidates in all.
  while (!heap.empty()) {
    ++scratch.num_steps_;
    std::pop_heap(heap.begin(), heap.end());
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[best.position];
    if (left.id != best.left || left.next < 0) continue;
    Scratch::Symbol& right = symbols[left.next];
    if (right.id != best.right) continue;
    left.id = best.merged;
    right.id = kNoId;
    left.next = right.next;
    if (left.next >= 0) {
      symbols[left.next].previous = best.position;
      PushCandidate(best.position, scratch);
    }
    if (left.previous >= 0) PushCandidate(left.previous, scratch);
  }
}

}  // namespace strata
