#include "serving/api/fields.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 32;
constexpr size_t kMaxShown = 60;

// Beyond doubles' whole numbers.
constexpr double kMaxWhole = 9007199254740992.0;

}  // namespace

std::string Shown(const Json& value) {
  // Strings of strangers: what is not UTF-8 never got here, but cutting may.
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true,
                                Json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

absl::StatusOr<Json> ParseBody(absl::string_view body) {
  bool too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) too_deep = true;
    return !too_deep;
  };
  Json json = Json::parse(body.begin(), body.end(), watch,
                          /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the body is nested too deep; want at most ", kMaxDepth, " levels"));
  }
  if (json.is_discarded()) {
    return absl::InvalidArgumentError("the body is not JSON in UTF-8");
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body is ", Shown(json), "; want an object"));
  }
  return json;
}

void Fields::Fail(std::string message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(std::move(message));
}

void Fields::WrongType(absl::string_view name, absl::string_view wanted) {
  Fail(absl::StrCat(name, " is ", Shown(object_[std::string(name)]), "; want ",
                    wanted));
}

const Json& Fields::Any(absl::string_view name) {
  static const Json& null = *new Json(nullptr);
  known_.insert(std::string(name));
  const auto it = object_.find(std::string(name));
  return it == object_.end() ? null : *it;
}

bool Fields::Bool(absl::string_view name, bool otherwise) {
  const Json& value = Any(name);
  if (value.is_null()) return otherwise;
  if (value.is_boolean()) return value.get<bool>();
  WrongType(name, "true or false");
  return otherwise;
}

int64_t Fields::Int(absl::string_view name, int64_t otherwise, int64_t min,
                    int64_t max) {
  const Json& value = Any(name);
  if (value.is_null()) return otherwise;
  // 1.0 and 1e3 are whole numbers too, as far as a double knows them.
  if (value.is_number_unsigned()) {
    if (max >= 0 && value.get<uint64_t>() <= static_cast<uint64_t>(max) &&
        (min < 0 || value.get<uint64_t>() >= static_cast<uint64_t>(min))) {
      return value.get<int64_t>();
    }
  } else if (value.is_number_integer()) {
    if (value.get<int64_t>() >= min && value.get<int64_t>() <= max) {
      return value.get<int64_t>();
    }
  } else if (value.is_number_float()) {
    const auto number = value.get<double>();
    if (number == std::floor(number) && std::abs(number) <= kMaxWhole &&
        number >= static_cast<double>(min) &&
        number <= static_cast<double>(max)) {
      return static_cast<int64_t>(number);
    }
  }
  WrongType(name, absl::StrCat("a whole number from ", min, " to ", max));
  return otherwise;
}

double Fields::Number(absl::string_view name, double otherwise) {
  const Json& value = Any(name);
  if (value.is_null()) return otherwise;
  if (value.is_number()) return value.get<double>();
  WrongType(name, "a number");
  return otherwise;
}

std::string Fields::String(absl::string_view name,
                           absl::string_view otherwise) {
  const Json& value = Any(name);
  if (value.is_null()) return std::string(otherwise);
  if (value.is_string()) return value.get<std::string>();
  WrongType(name, "a string");
  return std::string(otherwise);
}

absl::Status Fields::Finish() {
  if (!status_.ok()) return status_;
  for (const auto& [name, value] : object_.items()) {
    if (known_.contains(name)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("field ", Shown(name), " is not known here"));
  }
  return absl::OkStatus();
}

}  // namespace strata
