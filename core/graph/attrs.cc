#include "core/graph/attrs.h"

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"

namespace strata {

Attrs::Attrs(
    std::initializer_list<std::pair<absl::string_view, Value>> values) {
  values_.reserve(values.size());
  for (const auto& [name, value] : values) values_.emplace_back(name, value);
}

const Attrs::Value* Attrs::Find(absl::string_view name) const {
  for (const auto& [key, value] : values_) {
    if (key == name) return &value;
  }
  return nullptr;
}

const Attrs::Value& Attrs::Get(absl::string_view name) const {
  const Value* value = Find(name);
  CHECK(value != nullptr) << "no attribute " << name << " in " << ToString();
  return *value;
}

int64_t Attrs::Int(absl::string_view name) const {
  return std::get<int64_t>(Get(name));
}

double Attrs::Float(absl::string_view name) const {
  return std::get<double>(Get(name));
}

const std::string& Attrs::String(absl::string_view name) const {
  return std::get<std::string>(Get(name));
}

bool Attrs::Has(absl::string_view name) const { return Find(name) != nullptr; }

std::string Attrs::ToString() const {
  return absl::StrJoin(
      values_, " ",
      [](std::string* out, const std::pair<std::string, Value>& pair) {
        absl::StrAppend(out, pair.first, "=");
        std::visit([out](const auto& value) { absl::StrAppend(out, value); },
                   pair.second);
      });
}

}  // namespace strata
