// A long list of token ids, in as few bytes as its vocabulary allows: two an id
// up to 65,536 tokens, four beyond.

#ifndef TRAINING_DATA_TOKEN_IDS_H_
#define TRAINING_DATA_TOKEN_IDS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace strata {

class TokenIds {
 public:
  TokenIds() = default;
  // For ids in [0, vocab_size).
  explicit TokenIds(int64_t vocab_size)
      : is_narrow_(vocab_size <= int64_t{1} << 16) {}

  void Append(int32_t id);

  int64_t size() const {
    return static_cast<int64_t>(is_narrow_ ? narrow_.size() : wide_.size());
  }
  bool empty() const { return size() == 0; }
  int bytes_per_id() const { return is_narrow_ ? 2 : 4; }

  // Fills `ids` with those from number `first` on; there are as many.
  void Copy(int64_t first, absl::Span<int32_t> ids) const;

  // Gives memory back that no id lies in.
  void ShrinkToFit();

 private:
  bool is_narrow_ = true;
  std::vector<uint16_t> narrow_;  // One of the two is empty.
  std::vector<uint32_t> wide_;
};

}  // namespace strata

#endif  // TRAINING_DATA_TOKEN_IDS_H_
