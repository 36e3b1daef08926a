// llama.cpp as a benchmark uses it: its shared libraries, opened by path.
//
// Nothing of it is needed to build this. Its structs of options grow from
// release to release, so they are taken as it fills them in, in more room than
// any release needs; of their fields only the first three of a context are
// written, and what it then says of itself is checked.

#ifndef TOOLS_LLAMA_CPP_LIBRARY_H_
#define TOOLS_LLAMA_CPP_LIBRARY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace strata {

// A model in llama.cpp with a context for one sequence. Not for several
// threads.
class LlamaCppModel {
 public:
  // `folder` holds libllama*.so and libggml*.so, as the npm package
  // @node-llama-cpp/linux-x64 has them under bins/linux-x64; `path` is a GGUF
  // file. One process opens one folder.
  //
  // Returns NOT_FOUND if there is no library, UNIMPLEMENTED if it lacks a
  // function or its options are laid out otherwise, and INVALID_ARGUMENT if it
  // refuses the file.
  static absl::StatusOr<std::unique_ptr<LlamaCppModel>> Open(
      const std::string& folder, const std::string& path, int64_t context);
  virtual ~LlamaCppModel() = default;

  // Seconds of a prompt in an empty cache, logits of its last token.
  virtual absl::StatusOr<double> Prefill(absl::Span<const int32_t> ids,
                                         int num_threads) = 0;
  // Seconds of each token of `ids` behind the first, one after another, its
  // logits waited for.
  virtual absl::StatusOr<std::vector<double>> Decode(
      absl::Span<const int32_t> ids, int num_threads) = 0;
  // What it is: release and instructions.
  virtual std::string Description() const = 0;
};

}  // namespace strata

#endif  // TOOLS_LLAMA_CPP_LIBRARY_H_
