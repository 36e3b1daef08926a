#include "core/checkpoint/gguf/gguf.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_fields.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

constexpr uint64_t kMaxAxes = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr int64_t kBlock = 32;
// Elements of a tensor: its bytes fit 63 bits in any type.
constexpr uint64_t kMaxElements = uint64_t{1} << 59;

// Reads from the front, never beyond the end.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : rest_(bytes) {}

  template <typename T>
  absl::StatusOr<T> Take() {
    if (rest_.size() < sizeof(T)) return Ends();
    T value;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return value;
  }
  absl::StatusOr<std::string> TakeString() {
    ASSIGN_OR_RETURN(const uint64_t size, Take<uint64_t>());
    if (size > rest_.size()) return Ends();
    std::string text(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return text;
  }
  absl::Status Skip(uint64_t count, uint64_t size) {
    if (size > 0 && count > rest_.size() / size) return Ends();
    rest_.remove_prefix(count * size);
    return absl::OkStatus();
  }
  size_t size() const { return rest_.size(); }
  absl::string_view rest() const { return rest_; }

 private:
  static absl::Status Ends() {
    return absl::InvalidArgumentError("the file ends within its header");
  }
  absl::string_view rest_;
};

enum Type : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

// Bytes of a scalar; 0 for what is none.
uint64_t ScalarSize(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    case kU64:
    case kI64:
    case kF64:
      return 8;
    default:
      return 0;
  }
}

absl::StatusOr<GgufList> TakeList(Reader& reader) {
  GgufList list;
  ASSIGN_OR_RETURN(list.type, reader.Take<uint32_t>());
  ASSIGN_OR_RETURN(list.count, reader.Take<uint64_t>());
  list.bytes = reader.rest();
  if (list.type != kString) {
    if (ScalarSize(list.type) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a list has elements of type ", list.type));
    }
    RETURN_IF_ERROR(reader.Skip(list.count, ScalarSize(list.type)));
    return list;
  }
  for (uint64_t i = 0; i < list.count; ++i) {
    ASSIGN_OR_RETURN(const uint64_t size, reader.Take<uint64_t>());
    RETURN_IF_ERROR(reader.Skip(size, 1));
  }
  return list;
}

template <typename T, typename As>
absl::StatusOr<GgufFile::Value> TakeAs(Reader& reader) {
  ASSIGN_OR_RETURN(const T value, reader.Take<T>());
  return GgufFile::Value(static_cast<As>(value));
}

absl::StatusOr<GgufFile::Value> TakeValue(Reader& reader, uint32_t type) {
  switch (type) {
    case kU8:
    case kBool:
      return TakeAs<uint8_t, int64_t>(reader);
    case kI8:
      return TakeAs<int8_t, int64_t>(reader);
    case kU16:
      return TakeAs<uint16_t, int64_t>(reader);
    case kI16:
      return TakeAs<int16_t, int64_t>(reader);
    case kU32:
      return TakeAs<uint32_t, int64_t>(reader);
    case kI32:
      return TakeAs<int32_t, int64_t>(reader);
    case kU64:
      return TakeAs<uint64_t, int64_t>(reader);
    case kI64:
      return TakeAs<int64_t, int64_t>(reader);
    case kF32:
      return TakeAs<float, double>(reader);
    case kF64:
      return TakeAs<double, double>(reader);
    case kString: {
      ASSIGN_OR_RETURN(std::string text, reader.TakeString());
      return GgufFile::Value(std::move(text));
    }
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("a value has the type ", type, "; want 0 to 12"));
  }
}

struct TensorInfo {
  std::string name;
  StoredTensor tensor;
  uint64_t offset = 0;
  int64_t num_bytes = 0;
};

absl::StatusOr<TensorInfo> TakeTensor(Reader& reader) {
  TensorInfo info;
  ASSIGN_OR_RETURN(info.name, reader.TakeString());
  ASSIGN_OR_RETURN(const uint32_t axes, reader.Take<uint32_t>());
  if (axes < 1 || axes > kMaxAxes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Shown(info.name), " has ", axes,
                     " axes; want 1 to ", kMaxAxes));
  }
  Shape& shape = info.tensor.view.shape;
  uint64_t elements = 1, innermost = 0;
  for (uint32_t i = 0; i < axes; ++i) {
    ASSIGN_OR_RETURN(const uint64_t extent, reader.Take<uint64_t>());
    if (extent < 1 || extent > kMaxElements / elements) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Shown(info.name), " has an extent of ", extent,
          "; want at least 1, and fewer than 2^59 "
          "elements in all"));
    }
    if (i == 0) innermost = extent;
    elements *= extent;
    shape.insert(shape.begin(), static_cast<int64_t>(extent));
  }
  ASSIGN_OR_RETURN(const uint32_t type, reader.Take<uint32_t>());
  ASSIGN_OR_RETURN(info.offset, reader.Take<uint64_t>());
  DType& dtype = info.tensor.view.dtype;
  auto& packing = info.tensor.packing;
  dtype = DType::kF32;
  switch (type) {
    case 0:
      break;
    case 1:
      dtype = DType::kF16;
      break;
    case 2:
      packing = StoredTensor::Packing::kQ4_0;
      break;
    case 8:
      packing = StoredTensor::Packing::kQ8_0;
      break;
    case 28:
      dtype = DType::kF64;
      break;
    case 30:
      dtype = DType::kBF16;
      break;
    default:
      return absl::UnimplementedError(absl::StrCat(
          "tensor ", Shown(info.name), " is of GGML type ", type,
          ", which is not supported; want F32 (0), F16 (1), Q4_0 (2), Q8_0 "
          "(8), F64 (28) or BF16 (30)"));
  }
  if (packing == StoredTensor::Packing::kNone) {
    info.num_bytes = info.tensor.view.num_bytes();
  } else if (innermost % kBlock != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Shown(info.name), " has rows of ", innermost,
                     "; want a multiple of ", kBlock, ", a block"));
  } else {
    info.num_bytes = PackedBytes(packing, static_cast<int64_t>(elements));
  }
  return info;
}

absl::StatusOr<GgufFile> Parse(absl::string_view bytes) {
  Reader reader(bytes);
  ASSIGN_OR_RETURN(const uint32_t magic, reader.Take<uint32_t>());
  if (magic != 0x46554747) {  // "GGUF"
    return absl::InvalidArgumentError("it does not begin with GGUF");
  }
  ASSIGN_OR_RETURN(const uint32_t version, reader.Take<uint32_t>());
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(
        absl::StrCat("its version is ", version,
                     ", which is not supported; want 2 or 3, little-endian"));
  }
  ASSIGN_OR_RETURN(const uint64_t num_tensors, reader.Take<uint64_t>());
  ASSIGN_OR_RETURN(const uint64_t num_pairs, reader.Take<uint64_t>());
  GgufFile file;
  for (uint64_t i = 0; i < num_pairs; ++i) {
    ASSIGN_OR_RETURN(std::string key, reader.TakeString());
    ASSIGN_OR_RETURN(const uint32_t type, reader.Take<uint32_t>());
    const std::string shown = Shown(key);
    if (type == kArray) {
      ASSIGN_OR_RETURN(const GgufList list, TakeList(reader));
      if (!file.lists.emplace(std::move(key), list).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("the key ", shown, " appears twice"));
      }
      continue;
    }
    ASSIGN_OR_RETURN(GgufFile::Value value, TakeValue(reader, type));
    if (!file.metadata.emplace(std::move(key), std::move(value)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("the key ", shown, " appears twice"));
    }
  }
  std::map<std::string, TensorInfo> infos;
  for (uint64_t i = 0; i < num_tensors; ++i) {
    ASSIGN_OR_RETURN(TensorInfo info, TakeTensor(reader));
    const std::string name = info.name;
    if (!infos.emplace(name, std::move(info)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Shown(name), " appears twice"));
    }
  }
  uint64_t alignment = kBlock;
  if (const auto it = file.metadata.find("general.alignment");
      it != file.metadata.end()) {
    const auto* const value = std::get_if<int64_t>(&it->second);
    if (value == nullptr || *value < 1 ||
        static_cast<uint64_t>(*value) > kMaxAlignment) {
      return absl::InvalidArgumentError("general.alignment is no alignment");
    }
    alignment = static_cast<uint64_t>(*value);
  }
  const uint64_t header = bytes.size() - reader.size();
  const uint64_t begin = (header + alignment - 1) / alignment * alignment;
  const uint64_t data = begin > bytes.size() ? 0 : bytes.size() - begin;
  for (auto& [name, info] : infos) {
    const auto size = static_cast<uint64_t>(info.num_bytes);
    if (info.offset > data || size > data - info.offset) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Shown(name), " has ", size, " bytes at ", info.offset,
          ", beyond the ", data, " bytes of data in the file"));
    }
    info.tensor.view.data =
        const_cast<char*>(bytes.data() + begin + info.offset);
    file.tensors.emplace(name, std::move(info.tensor));
  }
  return file;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> GgufList::Strings() const {
  if (type != kString) {
    return absl::InvalidArgumentError(
        absl::StrCat("a list has elements of type ", type, "; want strings (",
                     kString, ")"));
  }
  Reader reader(bytes);
  std::vector<std::string> strings;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(std::string text, reader.TakeString());
    strings.push_back(std::move(text));
  }
  return strings;
}

absl::StatusOr<std::vector<double>> GgufList::Numbers() const {
  if (type == kString) {
    return absl::InvalidArgumentError("a list has strings; want numbers");
  }
  Reader reader(bytes);
  std::vector<double> numbers;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const GgufFile::Value value, TakeValue(reader, type));
    const auto* const whole = std::get_if<int64_t>(&value);
    numbers.push_back(whole != nullptr ? static_cast<double>(*whole)
                                       : std::get<double>(value));
  }
  return numbers;
}

absl::StatusOr<GgufFile> ParseGguf(absl::string_view path,
                                   absl::string_view bytes) {
  absl::StatusOr<GgufFile> file = Parse(bytes);
  if (file.ok()) return file;
  return absl::Status(file.status().code(),
                      absl::StrCat(path, ": no GGUF file that can be read: ",
                                   file.status().message()));
}

}  // namespace strata
