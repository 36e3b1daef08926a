// What libFuzzer needs beside a target: it starts from the target's seeds,
// which are made by code and lie in no file.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/testing/fuzz_target.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// One input in so many is a seed again.
constexpr unsigned kSeedEvery = 64;

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  // Without files to start from, libFuzzer would begin with inputs of a few
  // bytes and none longer than 4096. What the caller says comes later and wins.
  static char no_length_control[] = "-len_control=0";
  static char max_length[] = "-max_len=65536";
  static auto* const arguments = new std::vector<char*>;
  arguments->push_back((*argv)[0]);
  arguments->push_back(no_length_control);
  arguments->push_back(max_length);
  arguments->insert(arguments->end(), *argv + 1, *argv + *argc);
  *argc = static_cast<int>(arguments->size());
  arguments->push_back(nullptr);
  *argv = arguments->data();
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size,
                                          size_t max_size, unsigned int seed) {
  static const auto* const kSeeds =
      new std::vector<std::string>(strata::FuzzSeeds());
  if (!kSeeds->empty() && (size <= 1 || seed % kSeedEvery == 0)) {
    const std::string& input = (*kSeeds)[seed / kSeedEvery % kSeeds->size()];
    size = std::min(input.size(), max_size);
    std::memcpy(data, input.data(), size);
    // Whole at times, so that it becomes a part of the corpus.
    if (seed / kSeedEvery % 2 == 0) return size;
  }
  return LLVMFuzzerMutate(data, size, max_size);
}
