// GGUF files for tests and benchmarks: their header, or all of one in memory.

#ifndef CORE_CHECKPOINT_GGUF_GGUF_BUILDER_H_
#define CORE_CHECKPOINT_GGUF_GGUF_BUILDER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/shape.h"

namespace strata {

// The bytes of a number.
template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

// All of a file before its tensors' data. Types are GGUF's numbers; see
// core/checkpoint/gguf/gguf.h for the layout.
class GgufHeader {
 public:
  void Text(const std::string& key, const std::string& value) {
    Key(key, 8);
    pairs_ += String(value);
  }
  void Int(const std::string& key, uint32_t value) {
    Key(key, 4);
    pairs_ += Raw(value);
  }
  void Float(const std::string& key, float value) {
    Key(key, 6);
    pairs_ += Raw(value);
  }
  void Strings(const std::string& key, const std::vector<std::string>& list) {
    Key(key, 9);
    pairs_ += Raw<uint32_t>(8) + Raw<uint64_t>(list.size());
    for (const std::string& text : list) pairs_ += String(text);
  }
  void Floats(const std::string& key, const std::vector<float>& list) {
    Key(key, 9);
    pairs_ += Raw<uint32_t>(6) + Raw<uint64_t>(list.size());
    for (const float number : list) pairs_ += Raw(number);
  }
  void Ints(const std::string& key, const std::vector<int32_t>& list) {
    Key(key, 9);
    pairs_ += Raw<uint32_t>(5) + Raw<uint64_t>(list.size());
    for (const int32_t number : list) pairs_ += Raw(number);
  }
  // The next tensor, whose data are `num_bytes` and what fills up to a multiple
  // of 32. Shapes outermost first, as everywhere here.
  void Declare(const std::string& name, const Shape& shape, uint32_t type,
               uint64_t num_bytes) {
    ++num_tensors_;
    infos_ += String(name) + Raw<uint32_t>(shape.size());
    for (size_t i = shape.size(); i-- > 0;) infos_ += Raw<uint64_t>(shape[i]);
    infos_ += Raw(type) + Raw<uint64_t>(data_bytes_);
    data_bytes_ += (num_bytes + 31) / 32 * 32;
  }
  std::string Build(uint32_t version = 3) const {
    std::string bytes = "GGUF" + Raw(version) + Raw<uint64_t>(num_tensors_) +
                        Raw<uint64_t>(num_pairs_) + pairs_ + infos_;
    bytes.resize((bytes.size() + 31) / 32 * 32);
    return bytes;
  }

 private:
  static std::string String(const std::string& text) {
    return Raw<uint64_t>(text.size()) + text;
  }
  void Key(const std::string& key, uint32_t type) {
    ++num_pairs_;
    pairs_ += String(key) + Raw(type);
  }
  uint64_t num_pairs_ = 0, num_tensors_ = 0, data_bytes_ = 0;
  std::string pairs_, infos_;
};

// A whole file.
class GgufBuilder : public GgufHeader {
 public:
  void Tensor(const std::string& name, const Shape& shape, uint32_t type,
              const std::string& bytes) {
    Declare(name, shape, type, bytes.size());
    data_ += bytes;
    data_.resize((data_.size() + 31) / 32 * 32);
  }
  std::string Build(uint32_t version = 3) const {
    return GgufHeader::Build(version) + data_;
  }

 private:
  std::string data_;
};

}  // namespace strata

#endif  // CORE_CHECKPOINT_GGUF_GGUF_BUILDER_H_
