// Byte-pair encoding: the "model" of tokenizer.json.
//
//   piece  "lower"     l o w e r
//     |
//     |  merge the pair of the lowest rank, the leftmost of equals, until none
//     v
//   ids    [low, er]
//
// A piece of n bytes takes O(n log n) steps, whatever it is. Const methods may
// be called from several threads, each with a scratch of its own.

#ifndef CORE_TOKENIZER_BPE_H_
#define CORE_TOKENIZER_BPE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/json_node.h"

namespace strata {

class Bpe {
 public:
  static constexpr int32_t kNoId = -1;
  // Ids are below this, so that a file cannot ask for any amount of memory.
  static constexpr int32_t kMaxIds = 1 << 20;

  // What encoding needs beside the model. It remembers pieces that it has seen,
  // up to a bound, as text repeats them; so it belongs to one model.
  class Scratch {
   public:
    int64_t num_steps() const { return num_steps_; }  // Of all merging so far.

   private:
    friend class Bpe;

    // A symbol of the piece, in a list; merged ones drop out of it.
    struct Symbol {
      int32_t id = kNoId;  // kNoId once it has become part of the one before.
      int32_t previous = -1;
      int32_t next = -1;
    };
    // A pair that could merge; stale if its symbols are no longer these.
    struct Candidate {
      uint32_t rank = 0;
      int32_t position = 0;
      int32_t left = 0;
      int32_t right = 0;
      int32_t merged = 0;

      bool operator<(
          const Candidate& other) const {  // For a heap of the least.
        return rank != other.rank ? rank > other.rank
                                  : position > other.position;
      }
    };

    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
    absl::flat_hash_map<std::string, std::pair<size_t, size_t>> seen_;
    std::vector<int32_t> seen_ids_;  // `seen_` has begin and size in it.
    int64_t num_steps_ = 0;
  };

  // `is_byte_level`: tokens are spelt in the byte-level alphabet.
  //
  // Returns INVALID_ARGUMENT if a field is missing or wrong, if two tokens have
  // one id, or a merge names a token that there is none of; UNIMPLEMENTED for
  // models other than BPE, dropout, and prefixes or suffixes of words.
  static absl::StatusOr<Bpe> Parse(const JsonNode& json, bool is_byte_level);

  // Appends the ids of a piece, which is valid UTF-8. Characters without a
  // token become byte tokens (byte_fallback), the unknown token, or, as in the
  // Rust implementation, nothing if there is none of these.
  void Encode(absl::string_view piece, Scratch& scratch,
              std::vector<int32_t>& ids) const;

  // The id of a token as the file spells it, or kNoId.
  int32_t Find(absl::string_view token) const;

  // The token as the file spells it, or null if the id is none of the model's.
  const std::string* TokenOf(int32_t id) const;

  int32_t id_limit() const { return static_cast<int32_t>(tokens_.size()); }
  int64_t num_tokens() const { return static_cast<int64_t>(ids_.size()); }
  int64_t num_merges() const { return static_cast<int64_t>(merges_.size()); }

 private:
  struct Merge {
    uint32_t rank = 0;
    int32_t id = 0;
  };

  absl::Status ParseVocabulary(const JsonNode& json);
  absl::Status ParseMerges(const JsonNode& json);
  absl::Status AddMerge(absl::string_view left, absl::string_view right,
                        uint32_t rank);
  void FillByteIds();

  void EncodeAnew(absl::string_view piece, Scratch& scratch,
                  std::vector<int32_t>& ids) const;
  void SplitIntoSymbols(absl::string_view piece, Scratch& scratch) const;
  void MergeSymbols(Scratch& scratch) const;
  void PushCandidate(int32_t position, Scratch& scratch) const;

  bool is_byte_level_ = false;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
  int32_t unknown_id_ = kNoId;
  std::vector<std::string> tokens_;  // By id; empty where there is none.
  absl::flat_hash_map<absl::string_view, int32_t> ids_;  // Views of tokens_.
  absl::flat_hash_map<uint64_t, Merge> merges_;  // By left and right id.
  std::array<int32_t, 256> byte_ids_;            // Of a byte in the alphabet.
  std::array<int32_t, 256> fallback_ids_;        // Of <0x00> to <0xFF>.
};

}  // namespace strata

#endif  // CORE_TOKENIZER_BPE_H_
