// Presets: configs as text protos that lie in the binary (tools/bazel/embed.bzl
// puts them there).

#ifndef CORE_MODEL_PRESET_H_
#define CORE_MODEL_PRESET_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "google/protobuf/message.h"

namespace strata {

// Name and text proto of each.
using PresetTexts =
    absl::Span<const std::pair<absl::string_view, absl::string_view>>;

// Reads the preset `name` into `message`.
//
// Returns NOT_FOUND if there is none; the message says what `kind` of preset
// was asked for and lists the known ones.
absl::Status ReadPreset(PresetTexts texts, absl::string_view kind,
                        absl::string_view name,
                        google::protobuf::Message& message);

std::vector<std::string> NamesOf(PresetTexts texts);

}  // namespace strata

#endif  // CORE_MODEL_PRESET_H_
