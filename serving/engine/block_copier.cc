#include "serving/engine/block_copier.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/attention.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

absl::StatusOr<std::unique_ptr<BlockCopier>> BlockCopier::Create(
    Backend& backend, StateStore& state, int64_t num_blocks, bool by_program) {
  auto copier =
      std::unique_ptr<BlockCopier>(new BlockCopier(state, num_blocks));
  for (const std::string& name : state.names()) {
    if (absl::StartsWith(name, "cache.")) copier->caches_.push_back(name);
  }
  if (by_program || !backend.shares_host_memory()) {
    RETURN_IF_ERROR(copier->Compile(backend));
  }
  return copier;
}

absl::Status BlockCopier::Compile(Backend& backend) {
  if (caches_.empty()) return absl::OkStatus();
  block_rows_ = state_.Peek(caches_[0]).dim(0) / num_blocks_;
  GraphBuilder b;
  const ValueId from = b.Input("from", DType::kI32, {Static(block_rows_)});
  const ValueId to = b.Input("to", DType::kI32, {Static(block_rows_)});
  for (const std::string& name : caches_) {
    const TensorView& view = state_.Peek(name);
    const ValueId cache =
        b.State(name, view.dtype, {Static(view.dim(0)), Static(view.dim(1))});
    CopyCacheRows(b, cache, from, to);
  }
  ASSIGN_OR_RETURN(Graph graph, b.Finish());
  ASSIGN_OR_RETURN(program_,
                   Program::Compile(std::move(graph), backend, state_));
  return absl::OkStatus();
}

void BlockCopier::CopyOnHost(absl::Span<const BlockCopy> copies) {
  for (const std::string& name : caches_) {
    const TensorView& cache = state_.Get(name);
    const int64_t bytes = cache.num_bytes() / num_blocks_;
    char* const data = static_cast<char*>(cache.data);
    for (const BlockCopy& copy : copies) {
      std::memcpy(data + copy.to * bytes, data + copy.from * bytes, bytes);
    }
  }
}

absl::Status BlockCopier::Copy(absl::Span<const BlockCopy> copies) {
  if (program_ == nullptr) {
    if (!copies.empty()) CopyOnHost(copies);
    return absl::OkStatus();
  }
  for (const BlockCopy& copy : copies) {
    for (int64_t i = 0; i < block_rows_; ++i) {
      program_->Input("from").as<int32_t>()[i] =
          static_cast<int32_t>(copy.from * block_rows_ + i);
      program_->Input("to").as<int32_t>()[i] =
          static_cast<int32_t>(copy.to * block_rows_ + i);
    }
    RETURN_IF_ERROR(program_->Run());
  }
  return absl::OkStatus();
}

}  // namespace strata
