// The ranks that train together: --dp, --ep, --pp, and the processes of mpirun.

#ifndef TOOLS_STRATA_RANKS_H_
#define TOOLS_STRATA_RANKS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/parallel/agree.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "tools/strata/option_parser.h"
#include "training/balance/balance_rule.h"
#include "training/distributed/mpi_communicator.h"
#include "training/trace/execution_recorder.h"

namespace strata {

struct MeshFlags {
  MeshShape shape;
  std::string schedule = "1f1b";  // Of the pipeline over pp ranks.
  int chunks = 0;                 // Stages of a rank; 0: the schedule's.
  bool shard_optimizer = false;
  bool overlap_sums = false;
  bool overlap_rows = false;
  std::string rebalance = "never";
  int spare_experts = 0;
  int64_t move_bytes = BalanceRule().max_bytes;
  double move_seconds = BalanceRule().max_seconds;
  double timeout = 120;  // Seconds.
};

void AddMesh(OptionParser& app, MeshFlags& flags);

// Returns INVALID_ARGUMENT if --rebalance is none of its values.
absl::StatusOr<BalanceRule> BalanceOf(const MeshFlags& flags);

class Ranks {
 public:
  // Joins the other processes; null where there is one rank, started without
  // mpirun.
  //
  // Returns INVALID_ARGUMENT if the mesh has several ranks and mpirun started
  // none. If it started another number, all end as by Fail.
  // `on_gpus`: each takes the GPU of its number among the ranks of its machine,
  // and they exchange data over NCCL. `traced`: a recorder observes what the
  // ranks exchange. `settings`: as CheckSame() has it, for it is the first
  // thing that ranks exchange.
  static absl::StatusOr<std::unique_ptr<Ranks>> Join(
      const MeshFlags& flags, bool on_gpus, bool traced,
      const std::vector<Setting>& settings);

  const Mesh& mesh() const { return *mesh_; }
  int gpu() const { return gpu_; }
  // core/parallel/agree.h, over all ranks.
  absl::Status CheckSame(const std::vector<Setting>& settings) const;
  ExecutionRecorder* recorder() const { return recorder_.get(); }  // Or null.

  // Says what went wrong and ends all ranks, with status 1. Where all ranks
  // fail alike, only the first is heard.
  void Fail(const absl::Status& status);

 private:
  absl::Status Open(const MeshFlags& flags, bool on_gpus, bool traced,
                    const std::vector<Setting>& settings);

  std::unique_ptr<MpiWorld> mpi_;
  int gpu_ = 0;
  std::unique_ptr<Communicator> gpus_;  // Null: MPI's is the mesh's world.
  std::unique_ptr<ExecutionRecorder> recorder_;
  std::unique_ptr<Communicator> traced_;  // The mesh's world, with a recorder.
  std::unique_ptr<Mesh> mesh_;
};

}  // namespace strata

#endif  // TOOLS_STRATA_RANKS_H_
