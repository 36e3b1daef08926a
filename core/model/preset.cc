#include "core/model/preset.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/model/field_value.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"

namespace strata {

absl::Status ReadPreset(PresetTexts texts, absl::string_view kind,
                        absl::string_view name,
                        google::protobuf::Message& message) {
  for (const auto& [known, text] : texts) {
    if (known != name) continue;
    CHECK(google::protobuf::TextFormat::ParseFromString(std::string(text),
                                                        &message))
        << "preset " << known;
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("no ", kind, " preset ", Quoted(name),
                                          "; there are ",
                                          absl::StrJoin(NamesOf(texts), ", ")));
}

std::vector<std::string> NamesOf(PresetTexts texts) {
  std::vector<std::string> names;
  for (const auto& [name, text] : texts) names.emplace_back(name);
  return names;
}

}  // namespace strata
