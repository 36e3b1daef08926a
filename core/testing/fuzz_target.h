// A fuzz target: a reader, fed with bytes that anybody may have sent.
//
// A file name_fuzz.cc defines LLVMFuzzerTestOneInput and FuzzSeeds; the rule
// fuzz_target (tools/bazel/fuzz.bzl) makes of it
//
//   name_fuzz_test   a test: seeds, and thousands of damaged ones, always the
//                    same (fuzz_test_main.cc)
//   name_fuzz        with --config=fuzz, a program of libFuzzer, which looks
//                    for inputs that reach new code (fuzz_mutator.cc)

#ifndef CORE_TESTING_FUZZ_TARGET_H_
#define CORE_TESTING_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Reads the bytes, in a block of exactly that size, and CHECKs what must hold
// of whatever comes out. Returns 0.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace strata {

// Whole inputs, to be damaged.
std::vector<std::string> FuzzSeeds();

}  // namespace strata

#endif  // CORE_TESTING_FUZZ_TARGET_H_
