#include "core/checkpoint/safetensors_header.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

constexpr int kLengthBytes = 8;

// More axes than any tensor has; bounds what a hostile header costs.
constexpr size_t kMaxRank = 64;

// A name from a file, safe to print.
std::string Quoted(absl::string_view name) {
  constexpr size_t kMaxShown = 200;
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(name.substr(0, kMaxShown)),
                      name.size() > kMaxShown ? "...\"" : "\"");
}

std::optional<DType> ParseDType(absl::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    if (Name(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

// Receives the events of the parser; false stops it. Unlike a parsed document
// this sees keys that appear twice, and keeps nothing that is not asked for.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader& header() { return header_; }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool value) override { return Unexpected("a boolean"); }
  bool binary(binary_t& value) override { return Unexpected("binary"); }
  bool number_float(number_float_t value, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", text.substr(0, 40)));
  }
  bool number_integer(number_integer_t value) override {
    return Unexpected(absl::StrCat("the number ", value));
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) {
      return Unexpected(absl::StrCat("the number ", value));
    }
    if (value > std::numeric_limits<int64_t>::max()) {
      return Fail(absl::StrCat(Where(), "the number ", value,
                               " is too large; want below 2^63"));
    }
    const int64_t number = static_cast<int64_t>(value);
    if (place_ == Place::kOffsets) {
      if (num_offsets_ == 2) {
        return Fail(absl::StrCat(Where(), "has more than 2 data_offsets"));
      }
      (num_offsets_++ == 0 ? entry_.begin : entry_.end) = number;
      return true;
    }
    if (entry_.shape.size() == kMaxRank) {
      return Fail(absl::StrCat(Where(), "has more than ", kMaxRank, " axes"));
    }
    entry_.shape.push_back(number);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      header_.metadata[key_] = std::move(value);
      return true;
    }
    if (place_ != Place::kTensor || key_ != "dtype") {
      return Unexpected(absl::StrCat("the string ", Quoted(value)));
    }
    const std::optional<DType> dtype = ParseDType(value);
    if (!dtype.has_value()) {
      return Fail(absl::StrCat(Where(), "has the dtype ", Quoted(value),
                               "; want F32, BF16, I64 or another known one"));
    }
    entry_.dtype = *dtype;
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kOutside) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return Unexpected("an object");
    if (name_ == kSafetensorsMetadata) {
      place_ = Place::kMetadata;
      return true;
    }
    place_ = Place::kTensor;
    entry_.shape.clear();
    has_dtype_ = has_shape_ = has_offsets_ = false;
    num_offsets_ = 0;
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kTop) {
      bool is_first = header_.tensors.count(value) == 0;
      if (value == kSafetensorsMetadata) {
        is_first = !std::exchange(has_metadata_, true);
      }
      if (!is_first) return Fail(absl::StrCat(Quoted(value), " appears twice"));
      name_ = std::move(value);
      return true;
    }
    key_ = std::move(value);
    if (place_ == Place::kMetadata) {
      return header_.metadata.count(key_) == 0 ||
             Fail(absl::StrCat(Where(), Quoted(key_), " appears twice"));
    }
    bool* const has_field = key_ == "dtype"          ? &has_dtype_
                            : key_ == "shape"        ? &has_shape_
                            : key_ == "data_offsets" ? &has_offsets_
                                                     : nullptr;
    if (has_field == nullptr) {
      return Fail(absl::StrCat(Where(), "has the field ", Quoted(key_),
                               "; want dtype, shape and data_offsets"));
    }
    return !std::exchange(*has_field, true) ||
           Fail(absl::StrCat(Where(), Quoted(key_), " appears twice"));
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      if (!has_dtype_ || !has_shape_ || !has_offsets_) {
        return Fail(absl::StrCat(Where(), "has no ",
                                 !has_dtype_   ? "dtype"
                                 : !has_shape_ ? "shape"
                                               : "data_offsets"));
      }
      header_.tensors.emplace(std::move(name_), std::move(entry_));
    }
    place_ = place_ == Place::kTop ? Place::kOutside : Place::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kTensor && key_ == "shape") {
      place_ = Place::kShape;
      return true;
    }
    if (place_ == Place::kTensor && key_ == "data_offsets") {
      place_ = Place::kOffsets;
      return true;
    }
    return Unexpected("an array");
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && num_offsets_ != 2) {
      return Fail(
          absl::StrCat(Where(), "has ", num_offsets_, " data_offsets; want 2"));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override {
    return Fail(
        absl::StrCat("the header is not valid JSON at its byte ", position));
  }

 private:
  // What the next value belongs to.
  enum class Place { kOutside, kTop, kMetadata, kTensor, kShape, kOffsets };

  std::string Where() const {
    switch (place_) {
      case Place::kOutside:
      case Place::kTop:
        return "";
      case Place::kMetadata:
        return "in the metadata ";
      default:
        return absl::StrCat("tensor ", Quoted(name_), " ");
    }
  }

  bool Unexpected(absl::string_view what) {
    switch (place_) {
      case Place::kOutside:
        return Fail(absl::StrCat("the header is ", what, "; want an object"));
      case Place::kTop:
        return Fail(
            absl::StrCat(Quoted(name_), " is ", what, "; want an object"));
      case Place::kMetadata:
        return Fail(absl::StrCat(Where(), Quoted(key_), " is ", what,
                                 "; want a string"));
      case Place::kTensor:
        return Fail(
            absl::StrCat(Where(), "has as ", key_, " ", what, "; want ",
                         key_ == "dtype" ? "a string" : "an array of numbers"));
      case Place::kShape:
      case Place::kOffsets:
        return Fail(absl::StrCat(Where(), "has in ", key_, " ", what,
                                 "; want whole numbers from 0"));
    }
    return false;
  }

  bool Fail(std::string message) {
    error_ = std::move(message);
    return false;
  }

  SafetensorsHeader header_;
  std::string error_;
  Place place_ = Place::kOutside;
  bool has_metadata_ = false;
  std::string name_;  // Of the tensor.
  std::string key_;   // Inside of it, or of the metadata.
  SafetensorsEntry entry_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int num_offsets_ = 0;
};

// Bytes of a dense array; nothing if they, or any part of the product without
// its zeros, pass 2^63.
std::optional<int64_t> NumBytes(DType dtype, const Shape& shape) {
  int64_t product = SizeOf(dtype);
  bool is_empty = false;
  for (const int64_t extent : shape) {
    is_empty |= extent == 0;
    if (extent != 0 && __builtin_mul_overflow(product, extent, &product)) {
      return std::nullopt;
    }
  }
  return is_empty ? 0 : product;
}

// Returns "" or what is wrong with the tensors in `num_data_bytes`.
std::string FindLayoutError(const SafetensorsHeader& header,
                            int64_t num_data_bytes) {
  using Item = std::pair<const std::string, SafetensorsEntry>;
  std::vector<const Item*> order;
  order.reserve(header.tensors.size());
  for (const Item& item : header.tensors) {
    const auto& [name, entry] = item;
    const std::string range =
        absl::StrCat("[", entry.begin, ", ", entry.end, ")");
    if (entry.begin > entry.end) {
      return absl::StrCat("tensor ", Quoted(name),
                          " ends before it begins: ", range);
    }
    if (entry.end > num_data_bytes) {
      return absl::StrCat("tensor ", Quoted(name), " lies at ", range,
                          ", beyond the ", num_data_bytes,
                          " bytes of data in the file");
    }
    const std::optional<int64_t> num_bytes = NumBytes(entry.dtype, entry.shape);
    const std::string type =
        absl::StrCat(Name(entry.dtype), " ", ToString(entry.shape));
    if (!num_bytes.has_value()) {
      return absl::StrCat("tensor ", Quoted(name), " is ", type,
                          ", which overflows 2^63 bytes");
    }
    if (*num_bytes != entry.end - entry.begin) {
      return absl::StrCat("tensor ", Quoted(name), " is ", type,
                          ", which takes ", *num_bytes, " bytes, but lies at ",
                          range, ", which is ", entry.end - entry.begin);
    }
    order.push_back(&item);
  }
  std::sort(order.begin(), order.end(), [](const Item* a, const Item* b) {
    return std::tie(a->second.begin, a->second.end) <
           std::tie(b->second.begin, b->second.end);
  });
  int64_t end = 0;
  for (const Item* const item : order) {
    if (item->second.begin != end) {
      return absl::StrCat(
          "tensor ", Quoted(item->first), " begins at ", item->second.begin,
          ", but what is before it ends at ", end,
          item->second.begin < end ? ": they overlap" : ": there is a gap");
    }
    end = item->second.end;
  }
  if (end != num_data_bytes) {
    return absl::StrCat("the tensors end at ", end, ", but the file has ",
                        num_data_bytes, " bytes of data");
  }
  return "";
}

// `text` as a JSON string, or an error if it is not UTF-8.
absl::StatusOr<std::string> ToJsonString(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), " is not UTF-8"));
  }
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(
    absl::string_view path, absl::string_view bytes) {
  const auto error = [path](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not a valid safetensors file: ", what));
  };
  if (bytes.size() < kLengthBytes) {
    return error(absl::StrCat("it has ", bytes.size(), " bytes; want at least ",
                              kLengthBytes));
  }
  uint64_t num_json_bytes = 0;
  for (int i = 0; i < kLengthBytes; ++i) {
    num_json_bytes |= uint64_t{static_cast<unsigned char>(bytes[i])} << 8 * i;
  }
  bytes.remove_prefix(kLengthBytes);
  if (num_json_bytes > kMaxSafetensorsHeaderBytes) {
    return error(absl::StrCat("its header would have ", num_json_bytes,
                              " bytes; want at most ",
                              kMaxSafetensorsHeaderBytes));
  }
  if (num_json_bytes > bytes.size()) {
    return error(absl::StrCat("its header has ", num_json_bytes,
                              " bytes, but the file ends after ",
                              bytes.size()));
  }
  const absl::string_view json = bytes.substr(0, num_json_bytes);
  if (json.empty() || json[0] != '{') {
    return error("its header does not begin with {");
  }
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) {
    return error(reader.error());
  }
  SafetensorsHeader header = std::move(reader.header());
  header.num_bytes = kLengthBytes + json.size();
  const std::string layout_error =
      FindLayoutError(header, bytes.size() - json.size());
  if (!layout_error.empty()) return error(layout_error);
  return header;
}

absl::StatusOr<std::string> SerializeSafetensorsHeader(
    const SafetensorsHeader& header) {
  std::vector<std::string> parts;
  if (!header.metadata.empty()) {
    std::vector<std::string> pairs;
    for (const auto& [key, value] : header.metadata) {
      ASSIGN_OR_RETURN(const std::string json_key, ToJsonString(key));
      ASSIGN_OR_RETURN(const std::string json_value, ToJsonString(value));
      pairs.push_back(absl::StrCat(json_key, ":", json_value));
    }
    parts.push_back(absl::StrCat("\"", kSafetensorsMetadata, "\":{",
                                 absl::StrJoin(pairs, ","), "}"));
  }
  using Item = std::pair<const std::string, SafetensorsEntry>;
  std::vector<const Item*> order;
  for (const Item& item : header.tensors) order.push_back(&item);
  std::stable_sort(order.begin(), order.end(),
                   [](const Item* a, const Item* b) {
                     return std::tie(a->second.begin, a->second.end) <
                            std::tie(b->second.begin, b->second.end);
                   });
  for (const Item* const item : order) {
    const auto& [name, entry] = *item;
    if (name == kSafetensorsMetadata) {
      return absl::InvalidArgumentError(
          absl::StrCat("a tensor cannot be named ", kSafetensorsMetadata));
    }
    ASSIGN_OR_RETURN(const std::string json_name, ToJsonString(name));
    parts.push_back(absl::StrCat(
        json_name, ":{\"dtype\":\"", Name(entry.dtype), "\",\"shape\":[",
        absl::StrJoin(entry.shape, ","), "],\"data_offsets\":[", entry.begin,
        ",", entry.end, "]}"));
  }
  std::string json = absl::StrCat("{", absl::StrJoin(parts, ","), "}");
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the safetensors header would have ", json.size(),
                     " bytes; want at most ", kMaxSafetensorsHeaderBytes));
  }
  std::string bytes;
  for (int i = 0; i < kLengthBytes; ++i) {
    bytes.push_back(static_cast<char>(uint64_t{json.size()} >> 8 * i));
  }
  return bytes + json;
}

}  // namespace strata
