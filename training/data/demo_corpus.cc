#include "training/data/demo_corpus.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "training/data/clean_text.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

// Short beside a domain's validation part, so that many texts are in it; long
// beside a sequence, so that few sequences see a cut.
constexpr size_t kPieceBytes = 16 << 10;

enum class Form { kPlain, kGutenberg, kFortunes, kPerlLicence };

// Files of a package: those named, or all below the folder whose names have one
// of the suffixes ("" is a name without a dot), in the order of a hash.
struct Source {
  std::string package;
  std::string folder;  // Relative to the root.
  std::vector<std::string> files;
  std::vector<std::string> suffixes;
  size_t max_bytes = kMaxDemoDomainBytes;
  Form form = Form::kPlain;
};

struct DomainSources {
  std::string name;
  std::vector<Source> sources;
};

// Fortune files are chosen for calm: the words of writers, scientists and
// statesmen rather than jokes.
DomainSources Prose() {
  const std::string go = "usr/share/gocode/src/github.com";
  Source doyle;
  doyle.package = "golang-github-pierrec-lz4-dev";
  doyle.folder = go + "/pierrec/lz4/testdata";
  doyle.files = {"pg1661.txt"};
  doyle.form = Form::kGutenberg;

  Source newton;
  newton.package = "golang-github-andybalholm-brotli-dev";
  newton.folder = go + "/andybalholm/brotli/testdata";
  newton.files = {"Isaac.Newton-Opticks.txt"};
  newton.form = Form::kGutenberg;

  Source literature;
  literature.package = "fortunes-min";
  literature.folder = "usr/share/games/fortunes";
  literature.files = {"literature"};
  literature.form = Form::kFortunes;

  Source sayings = literature;
  sayings.package = "fortunes";
  sayings.files = {"education",     "food",     "magic",  "medicine",
                   "miscellaneous", "news",     "people", "platitudes",
                   "science",       "startrek", "tao",    "wisdom",
                   "work"};
  return {"prose", {doyle, newton, literature, sayings}};
}

DomainSources Code() {
  const auto headers = [](std::string package, std::string folder,
                          std::vector<std::string> suffixes, size_t max_bytes) {
    return Source{std::move(package), std::move(folder), /*files=*/{},
                  std::move(suffixes), max_bytes};
  };
  return {
      "code",
      {headers("libstdc++-12-dev", "usr/include/c++/12", {".h", ".tcc", ""},
               800'000),
       headers("libabsl-dev", "usr/include/absl", {".h"}, 600'000),
       headers("libprotobuf-dev", "usr/include/google/protobuf", {".h"},
               200'000),
       headers("nlohmann-json3-dev", "usr/include/nlohmann", {".hpp"}, 200'000),
       headers("libgtest-dev", "usr/include/gtest", {".h"}, 200'000)}};
}

DomainSources Legal() {
  DomainSources legal{"legal", {}};
  Source common;
  common.package = "base-files";
  common.folder = "usr/share/common-licenses";
  common.files = {"Apache-2.0", "Artistic", "BSD",     "CC0-1.0", "GFDL-1.2",
                  "GFDL-1.3",   "GPL-1",    "GPL-2",   "GPL-3",   "LGPL-2",
                  "LGPL-2.1",   "LGPL-3",   "MPL-1.1", "MPL-2.0"};
  legal.sources.push_back(common);

  Source perl;
  perl.package = "libsoftware-license-perl";
  perl.folder = "usr/share/perl5/Software/License";
  perl.suffixes = {".pm"};
  perl.form = Form::kPerlLicence;
  legal.sources.push_back(perl);

  // Packages with long notices of their own, each of which is on the set-up's
  // list or needed by one that is.
  for (const char* package : {"bazel-bootstrap",
                              "dpkg",
                              "gcc-12-base",
                              "git",
                              "libblkid1",
                              "libbsd0",
                              "libc6-dev",
                              "libcom-err2",
                              "libcrypt-dev",
                              "libcurl3-gnutls",
                              "libdb5.3",
                              "libdbus-1-3",
                              "libeclipse-jdt-annotation-java",
                              "libffi8",
                              "libfreetype6",
                              "libgcrypt20",
                              "libglib2.0-0",
                              "libgnutls30",
                              "libgssapi-krb5-2",
                              "libharfbuzz0b",
                              "libhogweed6",
                              "libjpeg62-turbo",
                              "libjsr305-java",
                              "libldap-2.5-0",
                              "liblzma5",
                              "libopenblas-serial-dev",
                              "libp11-kit0",
                              "libpam0g",
                              "libpng16-16",
                              "libprotobuf-dev",
                              "libpython3.11-minimal",
                              "libsasl2-2",
                              "libservlet-api-java",
                              "libsystemd0",
                              "libtirpc-common",
                              "linux-libc-dev",
                              "manpages",
                              "openjdk-17-jre-headless",
                              "perl-base",
                              "unzip",
                              "vim-common"}) {
    Source notice;
    notice.package = package;
    notice.folder = absl::StrCat("usr/share/doc/", package);
    notice.files = {"copyright"};
    legal.sources.push_back(notice);
  }
  return legal;
}

DomainSources Technical() {
  Source perl;
  perl.package = "perl-doc";
  perl.folder = "usr/share/perl/5.36.0/pod";
  perl.suffixes = {".pod"};
  return {"technical", {perl}};
}

absl::Status Missing(const Source& source, const std::string& path) {
  return absl::NotFoundError(absl::StrFormat(
      "the demo's text \"%s\" is missing; install the Debian package %s", path,
      source.package));
}

bool HasSuffix(const std::string& path,
               const std::vector<std::string>& suffixes) {
  const std::string name = path.substr(path.rfind('/') + 1);
  for (const std::string& suffix : suffixes) {
    if (suffix.empty() ? !absl::StrContains(name, '.')
                       : absl::EndsWith(name, suffix)) {
      return true;
    }
  }
  return false;
}

// The source's files, relative to its folder.
absl::StatusOr<std::vector<std::string>> ListSource(const std::string& root,
                                                    const Source& source) {
  if (!source.files.empty()) return source.files;
  const std::string folder = absl::StrCat(root, source.folder);
  const absl::StatusOr<std::vector<std::string>> all = ListFiles(folder);
  if (absl::IsNotFound(all.status())) return Missing(source, folder);
  if (!all.ok()) return all.status();

  std::vector<std::pair<uint64_t, std::string>> order;
  for (const std::string& path : *all) {
    if (HasSuffix(path, source.suffixes)) {
      order.emplace_back(HashName(path), path);
    }
  }
  if (order.empty()) return Missing(source, folder);
  std::sort(order.begin(), order.end());
  std::vector<std::string> files;
  for (auto& [hash, path] : order) files.push_back(std::move(path));
  return files;
}

std::string Clean(Form form, std::string_view bytes) {
  const std::string text = NormaliseLines(bytes);
  switch (form) {
    case Form::kPlain:
      return text;
    case Form::kGutenberg:
      return std::string(StripGutenbergFrame(text));
    case Form::kFortunes:
      return JoinFortunes(text);
    case Form::kPerlLicence:
      return std::string(LicenceOfPerlModule(text));
  }
  return text;
}

// Adds the source's texts, in pieces, until the source or the domain is full.
absl::Status Gather(const std::string& root, const Source& source,
                    RepeatedParagraphs& repeated, size_t& domain_bytes,
                    std::vector<Document>& documents) {
  const size_t max_bytes =
      std::min(source.max_bytes, kMaxDemoDomainBytes - domain_bytes);
  size_t num_bytes = 0;
  ASSIGN_OR_RETURN(const std::vector<std::string> files,
                   ListSource(root, source));
  for (const std::string& file : files) {
    const std::string path = absl::StrCat(source.folder, "/", file);
    const absl::StatusOr<std::string> bytes =
        ReadFile(absl::StrCat(root, path));
    if (absl::IsNotFound(bytes.status())) {
      return Missing(source, absl::StrCat(root, path));
    }
    if (!bytes.ok()) return bytes.status();

    const std::string text = repeated.Drop(Clean(source.form, *bytes));
    int piece_number = 0;
    for (const std::string_view piece : SplitIntoPieces(text, kPieceBytes)) {
      if (num_bytes + piece.size() > max_bytes) {
        domain_bytes += num_bytes;
        return absl::OkStatus();
      }
      num_bytes += piece.size();
      documents.push_back(
          {absl::StrCat(path, "#", piece_number++), std::string(piece)});
    }
  }
  domain_bytes += num_bytes;
  return absl::OkStatus();
}

// The versions of all installed packages, from the package manager's records.
absl::flat_hash_map<std::string, std::string> InstalledVersions(
    const std::string& root) {
  absl::flat_hash_map<std::string, std::string> versions;
  const absl::StatusOr<std::string> status =
      ReadFile(absl::StrCat(root, "var/lib/dpkg/status"));
  if (!status.ok()) return versions;
  std::string package;
  for (absl::string_view line : absl::StrSplit(*status, '\n')) {
    if (absl::ConsumePrefix(&line, "Package: ")) package = std::string(line);
    // Two architectures of one package have the same version.
    if (absl::ConsumePrefix(&line, "Version: ")) {
      versions[package] = std::string(line);
    }
  }
  return versions;
}

}  // namespace

absl::StatusOr<Corpus> LoadDemoCorpus(const std::string& root) {
  const std::string base =
      absl::EndsWith(root, "/") ? root : absl::StrCat(root, "/");
  const auto versions = InstalledVersions(base);
  std::vector<DomainDocuments> domains;
  std::vector<std::string> used;
  RepeatedParagraphs repeated;
  for (const DomainSources& from : {Prose(), Code(), Legal(), Technical()}) {
    DomainDocuments& domain = domains.emplace_back();
    domain.name = from.name;
    size_t num_bytes = 0;
    for (const Source& source : from.sources) {
      RETURN_IF_ERROR(
          Gather(base, source, repeated, num_bytes, domain.documents));
      const auto version = versions.find(source.package);
      used.push_back(absl::StrCat(
          "package ", source.package, " ",
          version == versions.end() ? "of unknown version" : version->second));
    }
  }
  ASSIGN_OR_RETURN(Corpus corpus, MakeCorpus(std::move(domains)));
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  corpus.sources = std::move(used);
  return corpus;
}

}  // namespace strata
