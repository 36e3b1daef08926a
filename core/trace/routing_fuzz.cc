// Routing traces. The input is what a file decompresses to, and its checksums
// are put right, or every change would end there.

#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/testing/fuzz_target.h"
#include "core/trace/gzip.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_reader.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"
#include "core/trace/trace_example.h"

namespace strata {
namespace {

void AppendLength(uint64_t length, std::string& out) {
  for (; length >= 0x80; length >>= 7) {
    out.push_back(static_cast<char>(length | 0x80));
  }
  out.push_back(static_cast<char>(length));
}

void AppendEntry(const std::string& body, uint32_t& crc, std::string& out) {
  crc = static_cast<uint32_t>(
      crc32_z(crc, reinterpret_cast<const Bytef*>(body.data()), body.size()));
  RoutingTraceEntry entry;
  entry.set_crc32(crc);
  entry.set_body(body);
  const std::string bytes = entry.SerializeAsString();
  AppendLength(bytes.size(), out);
  out += bytes;
}

// `bytes` with the checksum of each entry made right, as far as entries go.
std::string WithRightChecksums(absl::string_view bytes) {
  std::string out;
  uint32_t crc = 0;
  while (!bytes.empty()) {
    uint64_t length = 0;
    size_t at = 0;
    for (int shift = 0; at < bytes.size() && shift < 35; shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes[at++]);
      length |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) break;
    }
    RoutingTraceEntry entry;
    if (length > bytes.size() - at ||
        !entry.ParseFromArray(bytes.data() + at, static_cast<int>(length))) {
      break;
    }
    AppendEntry(entry.body(), crc, out);
    bytes.remove_prefix(at + length);
  }
  return absl::StrCat(out, bytes);
}

void Read(const std::string& path) {
  auto reader = RoutingReader::Open(path);
  if (!reader.ok()) {
    CHECK(absl::IsInvalidArgument(reader.status()) ||
          absl::IsDataLoss(reader.status()))
        << reader.status();
    return;
  }
  RoutingRecord record;
  while (true) {
    const auto more = reader->Next(record);
    CHECK(more.ok() || absl::IsDataLoss(more.status())) << more.status();
    if (!more.ok() || !*more) return;
    const RoutingLayout& layout = reader->layout();
    for (size_t gate = 0; gate < layout.gates.size(); ++gate) {
      const int64_t tokens = GateTokens(layout, record, gate);
      CHECK(GateExits(layout, record, gate) <= tokens) << tokens;
      CHECK(GateRows(layout, record, gate) <=
            tokens * layout.gates[gate].k_max);
      const auto choices = DecodeChoices(layout, record, gate);
      CHECK(choices.ok() == layout.has_tokens) << choices.status();
      if (!choices.ok()) continue;
      CHECK(choices->num_tokens == tokens) << choices->num_tokens;
      for (const int32_t expert : choices->expert) {
        CHECK(expert >= -1 && expert < layout.gates[gate].num_experts);
      }
    }
  }
}

}  // namespace
}  // namespace strata

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace strata;
  const std::string bytes = WithRightChecksums(
      absl::string_view(reinterpret_cast<const char*>(data), size));
  GzipCompressor gzip;
  const absl::string_view packed = gzip.Compress(bytes);
  const int fd = memfd_create("routing", MFD_CLOEXEC);
  CHECK(fd >= 0);
  const auto closer = absl::MakeCleanup([fd] { close(fd); });
  CHECK(write(fd, packed.data(), packed.size()) ==
        static_cast<ssize_t>(packed.size()));
  Read(absl::StrCat("/proc/self/fd/", fd));
  return 0;
}

namespace strata {

std::vector<std::string> FuzzSeeds() {
  std::vector<std::string> seeds;
  for (const bool has_tokens : {true, false}) {
    ExampleTrace example;
    example.has_tokens = has_tokens;
    RoutingTraceHeader header = ExampleHeader(example);
    header.set_format_version(kRoutingTraceVersion);
    const auto layout = RoutingLayout::Create(header);
    CHECK(layout.ok()) << layout.status();
    std::string file;
    uint32_t crc = 0;
    RoutingTraceBody body;
    *body.mutable_header() = header;
    AppendEntry(body.SerializeAsString(), crc, file);
    Random random(/*seed=*/3, /*stream=*/0);
    for (int64_t step = 0; step < 2; ++step) {
      *body.mutable_record() = ExampleRecord(*layout, step, 5 + step, random);
      AppendEntry(body.SerializeAsString(), crc, file);
    }
    body.mutable_end()->set_num_records(2);
    AppendEntry(body.SerializeAsString(), crc, file);
    seeds.push_back(file);
  }
  return seeds;
}

}  // namespace strata
