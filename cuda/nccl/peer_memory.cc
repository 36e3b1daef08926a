#include "cuda/nccl/peer_memory.h"

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "cuda/nccl/gather_of.h"
#include "cuda/nccl/shared_block.h"

namespace strata::gpu {
namespace {

// Its block, for the others.
struct Block {
  int32_t code;  // absl::StatusCode of making it, or of opening the others'.
  int32_t padding;
  SharedBlockKey key;
};

// The first rank's error counts, so that all return the same.
absl::Status FirstError(Communicator& host, const std::vector<Block>& ranks,
                        absl::string_view what) {
  for (size_t r = 0; r < ranks.size(); ++r) {
    const auto code = static_cast<absl::StatusCode>(ranks[r].code);
    if (code == absl::StatusCode::kOk) continue;
    return absl::Status(code == absl::StatusCode::kResourceExhausted
                            ? code
                            : absl::StatusCode::kUnavailable,
                        absl::StrCat(host.name(), ": rank ", r, " ", what, ": ",
                                     absl::StatusCodeToString(code)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PeerMemory>> PeerMemory::Map(Communicator& host,
                                                            int device,
                                                            int64_t num_bytes) {
  const RankPlace here = PlaceHere(device);
  ASSIGN_OR_RETURN(const std::vector<RankPlace> places, GatherOf(host, here));
  bool are_threads = true;
  for (size_t r = 0; r < places.size(); ++r) {
    are_threads &= AreThreads(places[r], here);
    if (!AreOnOneHost(places[r], places[0])) {
      return absl::FailedPreconditionError(absl::StrCat(
          host.name(), ": rank ", r, " is on ", places[r].host, ", rank 0 on ",
          places[0].host, "; GPUs that share experts out want one host"));
    }
  }

  auto memory = std::unique_ptr<PeerMemory>(new PeerMemory);
  Block mine = {};
  auto own = SharedBlock::Allocate(here, places, num_bytes);
  mine.code = static_cast<int32_t>(own.status().code());
  if (own.ok()) {
    memory->own_ = *std::move(own);
    mine.key = memory->own_->key();
  }
  ASSIGN_OR_RETURN(const std::vector<Block> blocks, GatherOf(host, mine));
  RETURN_IF_ERROR(FirstError(host, blocks,
                             absl::StrCat("has no window of ", num_bytes >> 20,
                                          " MiB for its peers")));

  Block reached = {};
  for (int r = 0; r < host.size(); ++r) {
    if (r == host.rank()) {
      memory->block_.push_back(memory->own_->data());
      continue;
    }
    auto opened = OpenedBlock::Open(blocks[r].key, are_threads);
    memory->block_.push_back(opened.ok() ? (*opened)->data() : nullptr);
    if (opened.ok()) {
      memory->opened_.push_back(*std::move(opened));
    } else {
      reached.code = static_cast<int32_t>(opened.status().code());
    }
  }
  ASSIGN_OR_RETURN(const std::vector<Block> all, GatherOf(host, reached));
  RETURN_IF_ERROR(FirstError(host, all, "cannot reach its peers' memory"));
  return memory;
}

}  // namespace strata::gpu
