// Beside which streams of the process others run on lanes
// (cuda/runtime/side_lanes.h): for what enqueues kernels that fill a GPU, free
// of Abseil so that .cu files include it. Asks nothing of a stream, which may
// be captured from. Any thread may call.

#ifndef CUDA_RUNTIME_SIDE_LANE_STREAMS_H_
#define CUDA_RUNTIME_SIDE_LANE_STREAMS_H_

#include "cuda_runtime_api.h"

namespace strata::gpu {

// A node has begun on a lane, beside what is enqueued on `main` from now on; it
// is joined, so that what follows waits for it.
void BeginBeside(cudaStream_t main);
void EndBeside(cudaStream_t main);
// Whether what is enqueued on `stream` now runs beside such nodes.
bool RunsBeside(cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_SIDE_LANE_STREAMS_H_
