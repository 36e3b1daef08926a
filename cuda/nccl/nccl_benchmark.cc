// What GPUs of one host exchange, by size: time and bus bandwidth (the rate on
// the links that a ring would need, as NCCL's own tests define it).
//
//   bazel run -c opt --config=cuda //cuda/nccl:nccl_benchmark --
//       [GPUS [CSV [BYTES,BYTES,...]]]
//
// CSV: a file of its own for what the simulator predicts, in the columns that
// sim/collective:check_collectives and strata calibrate --collectives read.
// BYTES: other sizes than 16 KiB to 1 GiB, four times apart.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/parallel/communicator.h"
#include "core/parallel/thread_communicator.h"
#include "cuda/nccl/gather_of.h"
#include "cuda/nccl/nccl_group.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda_runtime_api.h"
#include "nccl.h"

namespace strata::gpu {
namespace {

constexpr int kTurns = 7;           // The median of them counts.
constexpr double kTurnBytes = 4e9;  // About so many a turn,
constexpr int kMaxCalls = 50;       // but no more calls.
constexpr int64_t kMinBytes = 16 << 10;
constexpr int64_t kMaxBytes = int64_t{1} << 30;

void Succeed(const absl::Status& status) { CHECK(status.ok()) << status; }
void Succeed(cudaError_t error) {
  CHECK(error == cudaSuccess) << cudaGetErrorString(error);
}

// Numbers from 1 to 2 that differ, over and over: what is sent and added is no
// array of zeros.
void Fill(char* data, int64_t num_bytes) {
  std::vector<float> numbers(1 << 18);
  Random random(/*seed=*/1, /*stream=*/0);
  for (float& x : numbers) x = 1 + static_cast<float>(random.Uniform());
  const int64_t piece = numbers.size() * sizeof(float);
  for (int64_t at = 0; at < num_bytes; at += piece) {
    Succeed(cudaMemcpy(data + at, numbers.data(),
                       std::min(piece, num_bytes - at),
                       cudaMemcpyHostToDevice));
  }
}

// A rank's part in one call.
struct Rank {
  const NcclLibrary& nccl;
  NcclGroup& group;
  int rank, size;
  char *in, *out;
};

using Calls = std::function<ncclResult_t(const Rank&, ncclComm_t, int64_t)>;

struct Work {
  const char* name;
  std::function<std::string(int size)> op;  // Of the CSV.
  const char* dtype;  // "half" or "int8": 2 bytes an element, or 1.
  // Of the bytes that a call has, those on a link of the ring.
  std::function<double(int size)> bus_share;
  Calls calls;
};

// What is exchanged is whole rows, of 256 numbers of BF16: NCCL is slower where
// pieces begin at no multiple of 16 bytes.
constexpr int64_t kRowBytes = 512;

// As unevenly as 1 / sqrt(place), so that rank 0 gets the most.
double SkewedShare(int to, int size) {
  double sum = 0;
  for (int r = 0; r < size; ++r) sum += 1 / std::sqrt(r + 1.0);
  return 1 / std::sqrt(to + 1.0) / sum;
}

// Rows that 64 experts got, four a token, in the validation after 240 steps of
// the demo preset with two layers of flat gates that nothing keeps even
// (metrics.jsonl, layer 1).
constexpr int kRecordedRows[] = {
    439,   1332, 162,  119,  8653, 1896,  370,   24,   62,    4,     641,
    472,   76,   199,  9442, 31,   14262, 25640, 383,  307,   286,   20,
    1838,  143,  2451, 10,   4,    14671, 9,     965,  829,   52450, 5,
    36117, 218,  51,   180,  10,   4397,  10,    1075, 21537, 784,   1666,
    18304, 1,    89,   105,  15,   1360,  6958,  2255, 60,    105,   136,
    2751,  3752, 189,  3,    3,    3417,  30,    12,   18359};
constexpr int kNumExperts = 64;
static_assert(std::size(kRecordedRows) == kNumExperts);

// Of experts that lie on ranks in order.
double RecordedShare(int to, int size) {
  const auto rows = [](int begin, int end) {
    return std::accumulate(kRecordedRows + begin, kRecordedRows + end, 0.0);
  };
  return rows(to * kNumExperts / size, (to + 1) * kNumExperts / size) /
         rows(0, kNumExperts);
}

ncclResult_t Exchange(const Rank& r, ncclComm_t comm,
                      const std::function<int64_t(int from, int to)>& bytes) {
  int64_t sent = 0, received = 0;
  for (int peer = 0; peer < r.size; ++peer) {
    const int64_t out = bytes(r.rank, peer), in = bytes(peer, r.rank);
    r.nccl.send(r.in + sent, out, ncclInt8, peer, comm, r.group.stream());
    r.nccl.recv(r.out + received, in, ncclInt8, peer, comm, r.group.stream());
    sent += out;
    received += in;
  }
  return ncclSuccess;
}

// Every rank sends of its bytes as `share` says.
Calls Uneven(double (*share)(int to, int size)) {
  return [share](const Rank& r, ncclComm_t comm, int64_t bytes) {
    return Exchange(r, comm, [&](int, int to) {
      const auto rows = static_cast<double>(bytes / kRowBytes);
      return static_cast<int64_t>(share(to, r.size) * rows) * kRowBytes;
    });
  };
}

// "alltoallv:0.53:0.47": what each rank gets of every rank's bytes.
std::function<std::string(int size)> UnevenOp(double (*share)(int to,
                                                              int size)) {
  return [share](int size) {
    std::string op = "alltoallv";
    for (int to = 0; to < size; ++to) {
      absl::StrAppendFormat(&op, ":%.6f", share(to, size));
    }
    return op;
  };
}

std::vector<Work> AllWork() {
  const auto named = [](const char* op) {
    return [op](int) { return std::string(op); };
  };
  const auto ring_share = [](int n) { return (n - 1.0) / n; };
  return {
      {"all_reduce", named("all_reduce"), "half",
       [](int n) { return 2 * (n - 1.0) / n; },
       [](const Rank& r, ncclComm_t comm, int64_t bytes) {
         return r.nccl.all_reduce(r.in, r.in, bytes / 2, ncclFloat16, ncclSum,
                                  comm, r.group.stream());
       }},
      {"all_gather", named("all_gather"), "int8", ring_share,
       [](const Rank& r, ncclComm_t comm, int64_t bytes) {
         return r.nccl.all_gather(r.in, r.out, bytes / r.size, ncclInt8, comm,
                                  r.group.stream());
       }},
      {"reduce_scatter", named("reduce_scatter"), "half", ring_share,
       [](const Rank& r, ncclComm_t comm, int64_t bytes) {
         return r.nccl.reduce_scatter(r.in, r.out, bytes / 2 / r.size,
                                      ncclFloat16, ncclSum, comm,
                                      r.group.stream());
       }},
      {"all_to_all", named("alltoall"), "int8", ring_share,
       [](const Rank& r, ncclComm_t comm, int64_t bytes) {
         return Exchange(r, comm, [&](int, int) { return bytes / r.size; });
       }},
      // The bus bandwidth is of the even one: what unevenness costs shows.
      {"all_to_all_v, skewed", UnevenOp(SkewedShare), "int8", ring_share,
       Uneven(SkewedShare)},
      {"all_to_all_v, recorded", UnevenOp(RecordedShare), "int8", ring_share,
       Uneven(RecordedShare)},
      {"send and receive, ring", named("sendrecv"), "int8",
       [](int) { return 1.0; },
       [](const Rank& r, ncclComm_t comm, int64_t bytes) {
         r.nccl.send(r.in, bytes, ncclInt8, (r.rank + 1) % r.size, comm,
                     r.group.stream());
         return r.nccl.recv(r.out, bytes, ncclInt8,
                            (r.rank + r.size - 1) % r.size, comm,
                            r.group.stream());
       }},
  };
}

// Seconds of a call: the slowest rank's, median of turns.
double Time(const Rank& rank, Communicator& host, const Work& work,
            int64_t num_bytes) {
  const cudaStream_t stream = rank.group.stream();
  const auto call = [&] {
    Succeed(rank.group.Enqueue(work.name, [&](ncclComm_t comm) {
      return work.calls(rank, comm, num_bytes);
    }));
  };
  call();  // Connects.
  Succeed(rank.group.Wait(work.name));
  // Captured, so that the host's time for a call is not in it.
  const int calls =
      std::clamp(static_cast<int>(kTurnBytes / num_bytes), 3, kMaxCalls);
  cudaGraph_t graph;
  cudaGraphExec_t turn;
  Succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call();
  Succeed(cudaStreamEndCapture(stream, &graph));
  Succeed(cudaGraphInstantiate(&turn, graph, 0));
  cudaEvent_t begin, end;
  Succeed(cudaEventCreate(&begin));
  Succeed(cudaEventCreate(&end));
  std::vector<double> seconds;
  for (int i = 0; i <= kTurns; ++i) {
    Succeed(host.Barrier());
    Succeed(cudaEventRecord(begin, stream));
    Succeed(cudaGraphLaunch(turn, stream));
    Succeed(cudaEventRecord(end, stream));
    Succeed(rank.group.Wait(work.name));
    float ms = 0;
    Succeed(cudaEventElapsedTime(&ms, begin, end));
    double slowest = ms * 1e-3 / calls;
    Succeed(
        host.AllReduce(PayloadOf(absl::MakeSpan(&slowest, 1)), ReduceOp::kMax));
    if (i > 0) seconds.push_back(slowest);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(turn);
  cudaGraphDestroy(graph);
  std::nth_element(seconds.begin(), seconds.begin() + kTurns / 2,
                   seconds.end());
  return seconds[kTurns / 2];
}

// `csv`: null, or where rows go.
void Run(Communicator& host, const NcclLibrary& nccl, ncclUniqueId id,
         const std::vector<int64_t>& sizes, std::FILE* csv) {
  Succeed(cudaSetDevice(host.rank()));
  Succeed(host.Broadcast(PayloadOfStruct(id), 0));
  NcclGroup::Options options;
  options.size = host.size();
  options.rank = host.rank();
  options.name = "world";
  options.timeout = absl::Minutes(2);
  auto group = NcclGroup::Join(nccl, id, options);
  Succeed(group.status());
  void *in = nullptr, *out = nullptr;
  // Skewed exchanges bring the first rank more than it sends.
  Succeed(cudaMalloc(&in, kMaxBytes));
  Succeed(cudaMalloc(&out, 4 * kMaxBytes));
  Fill(static_cast<char*>(in), kMaxBytes);
  const Rank rank = {nccl,
                     **group,
                     host.rank(),
                     host.size(),
                     static_cast<char*>(in),
                     static_cast<char*>(out)};
  cudaDeviceProp properties;
  Succeed(cudaGetDeviceProperties(&properties, host.rank()));
  for (const Work& work : AllWork()) {
    for (const int64_t bytes : sizes) {
      const double seconds = Time(rank, host, work, bytes);
      if (host.rank() != 0) continue;
      std::printf("%-24s %11lld bytes %10.1f us %8.1f GB/s bus\n", work.name,
                  static_cast<long long>(bytes), seconds * 1e6,
                  work.bus_share(host.size()) * bytes / seconds * 1e-9);
      std::fflush(stdout);
      if (csv == nullptr) continue;
      const int width = std::strcmp(work.dtype, "half") == 0 ? 2 : 1;
      std::fprintf(csv, "%s,%s,%s,%d,%lld,%.6f\n", properties.name,
                   work.op(host.size()).c_str(), work.dtype, host.size(),
                   static_cast<long long>(bytes / width), seconds * 1e3);
      std::fflush(csv);
    }
  }
  cudaFree(in);
  cudaFree(out);
}

// Of "524288,2097152"; empty if one is no whole number of rows for each rank,
// or above kMaxBytes.
std::vector<int64_t> SizesOf(const char* text, int num_ranks) {
  std::vector<int64_t> sizes;
  for (const absl::string_view field : absl::StrSplit(text, ',')) {
    int64_t bytes = 0;
    if (!absl::SimpleAtoi(field, &bytes) || bytes < 1 || bytes > kMaxBytes ||
        bytes % (kRowBytes * num_ranks) != 0) {
      return {};
    }
    sizes.push_back(bytes);
  }
  return sizes;
}

}  // namespace
}  // namespace strata::gpu

int main(int argc, char** argv) {
  using namespace strata;
  int num_gpus = 0;
  if (cudaGetDeviceCount(&num_gpus) != cudaSuccess || num_gpus == 0) {
    std::fputs("no GPU here\n", stderr);
    return 1;
  }
  int wanted = num_gpus;
  if (argc > 4 || (argc >= 2 && (!absl::SimpleAtoi(argv[1], &wanted) ||
                                 wanted < 1 || wanted > num_gpus))) {
    std::fprintf(stderr, "want [GPUS [CSV [BYTES,...]]], GPUS 1 to %d\n",
                 num_gpus);
    return 1;
  }
  std::vector<int64_t> sizes;
  if (argc == 4) {
    sizes = gpu::SizesOf(argv[3], wanted);
    if (sizes.empty()) {
      std::fprintf(stderr,
                   "BYTES is \"%s\"; want multiples of %lld up to %lld, as in "
                   "524288,2097152\n",
                   argv[3], static_cast<long long>(gpu::kRowBytes * wanted),
                   static_cast<long long>(gpu::kMaxBytes));
      return 1;
    }
  } else {
    for (int64_t bytes = gpu::kMinBytes; bytes <= gpu::kMaxBytes; bytes *= 4) {
      sizes.push_back(bytes);
    }
  }
  std::FILE* csv = nullptr;
  if (argc >= 3) {
    csv = std::fopen(argv[2], "w");
    if (csv == nullptr) {
      std::perror(argv[2]);
      return 1;
    }
    std::fputs("device,op_name,nccl_dtype,num_gpus,message_size,latency\n",
               csv);
  }
  const auto nccl = gpu::NcclLibrary::Load();
  if (!nccl.ok()) {
    std::fprintf(stderr, "%s\n", std::string(nccl.status().message()).c_str());
    return 1;
  }
  ncclUniqueId id;
  CHECK((*nccl)->get_unique_id(&id) == ncclSuccess);
  std::printf("%d GPUs\n", wanted);
  const auto hosts = ThreadCommunicators(wanted, absl::Minutes(2));
  std::vector<std::thread> threads;
  for (const auto& host : hosts) {
    threads.emplace_back([&] { gpu::Run(*host, **nccl, id, sizes, csv); });
  }
  for (std::thread& thread : threads) thread.join();
  if (csv != nullptr && std::fclose(csv) != 0) {
    std::perror(argv[2]);
    return 1;
  }
  return 0;
}
