#include "core/checkpoint/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/mapped_file.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/safetensors_header.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the file's byte order must be ours, as tensors are mapped");

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  ASSIGN_OR_RETURN(SafetensorsFile file, Parse(path, mapping.bytes()));
  file.mapping_ = std::move(mapping);
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(
    const std::string& path, absl::string_view bytes) {
  ASSIGN_OR_RETURN(SafetensorsHeader header,
                   ParseSafetensorsHeader(path, bytes));
  SafetensorsFile file(path);
  file.metadata_ = std::move(header.metadata);
  const char* const data = bytes.data() + header.num_bytes;
  for (auto& [name, entry] : header.tensors) {
    const char* first = data + entry.begin;
    if (reinterpret_cast<uintptr_t>(first) % SizeOf(entry.dtype) != 0) {
      const int64_t num_bytes = entry.end - entry.begin;
      file.copies_.push_back(std::make_unique<char[]>(num_bytes));
      std::memcpy(file.copies_.back().get(), first, num_bytes);
      first = file.copies_.back().get();
    }
    file.tensors_.emplace_hint(file.tensors_.end(), name,
                               TensorView{entry.dtype, std::move(entry.shape),
                                          const_cast<char*>(first)});
  }
  return file;
}

absl::StatusOr<TensorView> SafetensorsFile::Find(absl::string_view name) const {
  const auto it = tensors_.find(std::string(name));
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat(path_, ": there is no tensor \"",
                                            name, "\"; it holds ",
                                            tensors_.size(), " others"));
  }
  return it->second;
}

absl::Status WriteSafetensors(
    const std::string& path, absl::Span<const NamedTensor> tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<const NamedTensor*> order;
  order.reserve(tensors.size());
  for (const NamedTensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(),
            [](const NamedTensor* a, const NamedTensor* b) {
              const int a_size = SizeOf(a->tensor.dtype);
              const int b_size = SizeOf(b->tensor.dtype);
              return a_size != b_size ? a_size > b_size : a->name < b->name;
            });

  SafetensorsHeader header;
  header.metadata = metadata;
  int64_t end = 0;
  for (const NamedTensor* const item : order) {
    const TensorView& tensor = item->tensor;
    CHECK(tensor.data != nullptr || tensor.num_bytes() == 0) << item->name;
    const int64_t begin = std::exchange(end, end + tensor.num_bytes());
    const bool is_first =
        header.tensors
            .emplace(item->name,
                     SafetensorsEntry{tensor.dtype, tensor.shape, begin, end})
            .second;
    if (!is_first) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot write ", path, ": two tensors are named \"",
                       item->name, "\""));
    }
  }
  const absl::StatusOr<std::string> header_bytes =
      SerializeSafetensorsHeader(header);
  if (!header_bytes.ok()) {
    return absl::Status(header_bytes.status().code(),
                        absl::StrCat("cannot write ", path, ": ",
                                     header_bytes.status().message()));
  }
  return WriteFileAtomically(path, [&](OutputFile& file) -> absl::Status {
    RETURN_IF_ERROR(file.Append(*header_bytes));
    for (const NamedTensor* const item : order) {
      RETURN_IF_ERROR(file.Append(
          absl::string_view(static_cast<const char*>(item->tensor.data),
                            item->tensor.num_bytes())));
    }
    return absl::OkStatus();
  });
}

}  // namespace strata
