// The corpus of `strata demo`: real text of four domains, gathered from Debian
// packages that the set-up installs, so that nobody has to find data first.
//
//   prose      Conan Doyle, Newton's Opticks, collections of quotations
//   code       C++ headers: the standard library, Abseil, Protobuf, and others
//   legal      licences and notices of copyright
//   technical  Perl's manual
//
// Sources are read in a fixed order; of a folder that is larger than its bound,
// files are taken in the order of a hash of their paths, which is a fair sample
// of it. Paragraphs that occurred before are left out (RepeatedParagraphs), and
// texts are cut into pieces, so that validation sees a part of every source.
//
// The bytes depend on the packages' versions alone; Corpus::sources lists
// those. No source lies in /usr/share/doc but copyright files, because small
// installations of Debian leave the rest of that folder out.

#ifndef TRAINING_DATA_DEMO_CORPUS_H_
#define TRAINING_DATA_DEMO_CORPUS_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "training/data/corpus.h"

namespace strata {

// Bytes that no domain of the demo exceeds, before its split.
inline constexpr size_t kMaxDemoDomainBytes = 2'000'000;

// Gathers the corpus from the packages installed under `root`.
//
// Returns NOT_FOUND if a file is missing; the message names it and the package
// that has it.
absl::StatusOr<Corpus> LoadDemoCorpus(const std::string& root = "/");

}  // namespace strata

#endif  // TRAINING_DATA_DEMO_CORPUS_H_
