// Safetensors files: header and all that it says of the rest.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/safetensors_header.h"
#include "core/tensor/dtype.h"
#include "core/testing/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace strata;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto file = SafetensorsFile::Parse("f", bytes);
  if (!file.ok()) {
    CHECK(absl::IsInvalidArgument(file.status())) << file.status();
    CHECK(absl::StartsWith(file.status().message(), "f: ")) << file.status();
    return 0;
  }
  size_t num_bytes = 0;
  uint64_t sum = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    const auto* const begin = static_cast<const uint8_t*>(tensor.data);
    for (int64_t i = 0; i < tensor.num_bytes(); ++i) sum += begin[i];
    num_bytes += tensor.num_bytes();
  }
  CHECK(num_bytes <= size && sum <= 255 * num_bytes) << num_bytes;
  // The header can be written and says the same again.
  auto header = ParseSafetensorsHeader("f", bytes);
  CHECK(header.ok()) << header.status();
  auto text = SerializeSafetensorsHeader(*header);
  CHECK(text.ok()) << text.status();
  text->append(num_bytes, '\0');
  const auto again = ParseSafetensorsHeader("f", *text);
  CHECK(again.ok()) << again.status();
  CHECK(again->metadata == header->metadata);
  CHECK(again->tensors.size() == header->tensors.size());
  for (const auto& [name, entry] : header->tensors) {
    const SafetensorsEntry& copy = again->tensors.at(name);
    CHECK(copy.dtype == entry.dtype && copy.shape == entry.shape &&
          copy.begin == entry.begin && copy.end == entry.end)
        << name;
  }
  return 0;
}

namespace strata {

std::vector<std::string> FuzzSeeds() {
  const auto file = [](SafetensorsHeader header, int64_t num_bytes) {
    const auto text = SerializeSafetensorsHeader(header);
    CHECK(text.ok()) << text.status();
    return *text + std::string(num_bytes, 'x');
  };
  SafetensorsHeader several;
  several.metadata = {{"format", "pt"}, {"k\"\n", "\xE2\x82\xAC"}};
  several.tensors["matrix"] = {DType::kF32, {2, 3}, 0, 24};
  SafetensorsEntry& scalar = several.tensors["scalar"];
  scalar.dtype = DType::kF64;
  scalar.begin = 24;
  scalar.end = 32;
  several.tensors["half"] = {DType::kBF16, {1, 2, 1}, 32, 36};
  several.tensors["none"] = {DType::kI64, {4, 0}, 36, 36};
  several.tensors["byte"] = {DType::kBool, {3}, 36, 39};
  return {file({}, 0), file(several, 39)};
}

}  // namespace strata
