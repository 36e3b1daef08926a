#include "core/checkpoint/hf_fields.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

constexpr size_t kMaxShown = 80;

std::string ShownJson(const nlohmann::json& json) {
  const std::string text =
      json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return text.size() <= kMaxShown
             ? text
             : absl::StrCat(text.substr(0, kMaxShown), "...");
}

std::optional<int64_t> ToInt(const nlohmann::json& json) {
  if (json.is_number_unsigned()) {
    const auto value = json.get<uint64_t>();
    if (value > uint64_t{std::numeric_limits<int64_t>::max()}) return {};
    return static_cast<int64_t>(value);
  }
  if (json.is_number_integer()) return json.get<int64_t>();
  if (!json.is_number_float()) return {};
  const double value = json.get<double>();
  // Doubles hold integers up to 2^53 exactly.
  if (value != std::floor(value) || std::abs(value) > 9007199254740992.0) {
    return {};
  }
  return static_cast<int64_t>(value);
}

}  // namespace

std::string Shown(absl::string_view text) {
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text.substr(0, kMaxShown)),
                      text.size() > kMaxShown ? "...\"" : "\"");
}

const nlohmann::json* HfFields::Find(absl::string_view key) const {
  const auto it = json_->find(std::string(key));
  return it == json_->end() || it->is_null() ? nullptr : &*it;
}

void HfFields::Fail(absl::string_view key, absl::string_view wanted) {
  if (!status_.ok()) return;
  const nlohmann::json* const value = Find(key);
  status_ = absl::InvalidArgumentError(absl::StrCat(
      path_, key, " is ", value == nullptr ? "absent" : ShownJson(*value),
      "; want ", wanted));
}

int64_t HfFields::Int(absl::string_view key, int64_t absent) {
  const nlohmann::json* const value = Find(key);
  if (value == nullptr) return absent;
  const std::optional<int64_t> number = ToInt(*value);
  if (!number.has_value()) Fail(key, "an integer");
  return number.value_or(absent);
}

int64_t HfFields::Required(absl::string_view key) {
  if (Find(key) == nullptr) Fail(key, "an integer");
  return Int(key, 0);
}

double HfFields::Number(absl::string_view key, double absent) {
  const nlohmann::json* const value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_number()) {
    Fail(key, "a number");
    return absent;
  }
  return value->get<double>();
}

bool HfFields::Bool(absl::string_view key, bool absent) {
  const nlohmann::json* const value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) {
    Fail(key, "true or false");
    return absent;
  }
  return value->get<bool>();
}

std::string HfFields::String(absl::string_view key, absl::string_view absent) {
  const nlohmann::json* const value = Find(key);
  if (value == nullptr) return std::string(absent);
  if (!value->is_string()) {
    Fail(key, "a string");
    return std::string(absent);
  }
  return value->get<std::string>();
}

HfFields HfFields::Object(absl::string_view key) {
  static const nlohmann::json* const kEmpty =
      new nlohmann::json(nlohmann::json::object());
  const nlohmann::json* const value = Find(key);
  const std::string path = absl::StrCat(path_, key, ".");
  if (value == nullptr) return HfFields(*kEmpty, path);
  if (!value->is_object()) {
    Fail(key, "an object");
    return HfFields(*kEmpty, path);
  }
  return HfFields(*value, path);
}

absl::StatusOr<std::vector<int64_t>> HfFields::Ints(absl::string_view key) {
  std::vector<int64_t> numbers;
  const nlohmann::json* const value = Find(key);
  if (value == nullptr) return numbers;
  const bool is_list = value->is_array();
  if (is_list) {
    for (const nlohmann::json& item : *value) {
      const std::optional<int64_t> number = ToInt(item);
      if (!number.has_value()) break;
      numbers.push_back(*number);
    }
  }
  if (!is_list || numbers.size() != value->size()) {
    Fail(key, "a list of integers");
    return status_;
  }
  return numbers;
}

absl::StatusOr<std::string> HfFields::OneName(absl::string_view key) const {
  const nlohmann::json* const value = Find(key);
  if (value == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path_, key, " is absent"));
  }
  if (!value->is_array() || value->size() != 1 || !value->front().is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, key, " is ", ShownJson(*value), "; want a list of one name"));
  }
  return value->front().get<std::string>();
}

}  // namespace strata
