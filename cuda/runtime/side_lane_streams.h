// Which streams of the process are lanes, and beside which others they run
// (cuda/runtime/side_lanes.h): for what enqueues kernels that share a GPU, free
// of Abseil so that .cu files include it. Asks nothing of a stream, which may
// be captured from. Any thread may call.

#ifndef CUDA_RUNTIME_SIDE_LANE_STREAMS_H_
#define CUDA_RUNTIME_SIDE_LANE_STREAMS_H_

#include "cuda_runtime_api.h"

namespace strata::gpu {

// From when a lane is made until before it is destroyed.
void AddLane(cudaStream_t lane);
void RemoveLane(cudaStream_t lane);
bool IsLane(cudaStream_t stream);

// What is enqueued on the lane from now on runs beside `main`, which is asked
// for; null where none was said.
void Fork(cudaStream_t lane, cudaStream_t main);
cudaStream_t BesideLane(cudaStream_t lane);

// A node has begun on a lane, beside what is enqueued on `main` from now on; it
// is joined, so that what follows waits for it.
void BeginBeside(cudaStream_t main);
void EndBeside(cudaStream_t main);
// Whether what is enqueued on `stream` now runs beside such nodes.
bool RunsBeside(cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_SIDE_LANE_STREAMS_H_
