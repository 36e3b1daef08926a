#include "serving/schema/json_schema.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "serving/schema/byte_grammar.h"
#include "serving/schema/json_rules.h"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

// Bounds on what one schema may cost.
constexpr int64_t kMaxCount = 2000;  // minItems and the like.
constexpr int64_t kMaxSpan = 1000;   // Integers between minimum and maximum.
constexpr int64_t kMaxStates = 50000;
constexpr int kMaxReferences = 100;  // One inside another.

const std::set<std::string>& Describing() {
  static const auto& keys = *new std::set<std::string>{
      "title",    "description", "default",   "examples", "$schema",
      "$id",      "$comment",    "$defs",     "format",   "definitions",
      "readOnly", "writeOnly",   "deprecated"};
  return keys;
}

// Which keywords say something of which type.
const std::map<std::string, std::set<std::string>>& KeywordsOf() {
  static const auto& keywords =
      *new std::map<std::string, std::set<std::string>>{
          {"object", {"properties", "required", "additionalProperties"}},
          {"array", {"items", "prefixItems", "minItems", "maxItems"}},
          {"string", {"minLength", "maxLength"}},
          {"integer", {"minimum", "maximum"}},
          {"number", {}},
          {"boolean", {}},
          {"null", {}}};
  return keywords;
}

std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true,
                                Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

bool IsOfType(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return value.is_number_integer() ||
         (value.is_number_float() &&
          value.get<double>() == std::floor(value.get<double>()));
}

class Compiler {
 public:
  Compiler(const Json& root, std::string path)
      : root_(root), path_(std::move(path)), rules_(g_) {}

  absl::StatusOr<std::shared_ptr<const ByteGrammar>> Run() {
    ASSIGN_OR_RETURN(const int32_t root, Rule(root_, path_));
    by_ref_["#"] = root;
    RETURN_IF_ERROR(g_.Finish(root));
    return std::make_shared<const ByteGrammar>(std::move(g_));
  }

 private:
  static absl::Status Error(const std::string& path, absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(path, " ", what));
  }

  // A rule of what satisfies `schema`.
  absl::StatusOr<int32_t> Rule(const Json& schema, const std::string& path) {
    RETURN_IF_ERROR(Room(1));
    const int32_t rule = g_.AddRule(path);
    if (&schema == &root_) by_ref_["#"] = rule;
    RETURN_IF_ERROR(Fill(schema, path, rule));
    return rule;
  }

  // That so many states may be added.
  absl::Status Room(int64_t states) const {
    if (g_.num_states() + states <= kMaxStates) return absl::OkStatus();
    return Error(path_, "is too large");
  }

  absl::Status Fill(const Json& schema, const std::string& path, int32_t rule) {
    const int32_t start = g_.start(rule);
    if (schema.is_boolean()) {
      if (schema.get<bool>()) {
        g_.SetFinal(g_.CallRule(start, rules_.Any()));
      } else {
        g_.SetImpossible(rule, "the schema is false");
      }
      return absl::OkStatus();
    }
    if (!schema.is_object()) {
      return Error(path, absl::StrCat("is ", Shown(schema),
                                      "; want an object, true or false"));
    }
    for (const char* alone : {"$ref", "anyOf", "allOf"}) {
      if (!schema.contains(alone)) continue;
      RETURN_IF_ERROR(OnlyBeside(schema, path, {alone}));
      return Combine(schema, alone, path, rule);
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> types,
                     TypesOf(schema, path));
    if (schema.contains("enum") || schema.contains("const")) {
      RETURN_IF_ERROR(OnlyBeside(schema, path, {"enum", "const", "type"}));
      return FillLiterals(schema, types, path, rule);
    }
    std::set<std::string> known = {"type"};
    for (const std::string& type : types) {
      const std::set<std::string>& more = KeywordsOf().at(type);
      known.insert(more.begin(), more.end());
    }
    RETURN_IF_ERROR(OnlyBeside(schema, path, known));
    for (const std::string& type : types) {
      // Every whole number is a number.
      if (type == "integer" &&
          std::count(types.begin(), types.end(), "number") > 0) {
        continue;
      }
      RETURN_IF_ERROR(FillType(schema, type, path, rule));
    }
    return absl::OkStatus();
  }

  // That a schema has no keyword but these and what only describes.
  absl::Status OnlyBeside(const Json& schema, const std::string& path,
                          const std::set<std::string>& known) {
    for (const auto& [key, value] : schema.items()) {
      if (known.count(key) > 0 || Describing().count(key) > 0) continue;
      bool elsewhere = false;
      for (const auto& [type, keywords] : KeywordsOf()) {
        elsewhere = elsewhere || keywords.count(key) > 0;
      }
      return Error(absl::StrCat(path, ".", key),
                   elsewhere || known.count("type") == 0
                       ? "is not supported beside what else is there"
                       : "is not supported");
    }
    return absl::OkStatus();
  }

  absl::Status Combine(const Json& schema, const std::string& how,
                       const std::string& path, int32_t rule) {
    const Json& value = schema[how];
    const std::string here = absl::StrCat(path, ".", how);
    const int32_t start = g_.start(rule);
    if (how == "$ref") {
      ASSIGN_OR_RETURN(const int32_t target, Reference(value, here));
      g_.SetFinal(g_.CallRule(start, target));
      return absl::OkStatus();
    }
    if (!value.is_array() || value.empty()) {
      return Error(
          here, absl::StrCat("is ", Shown(value), "; want a list of schemas"));
    }
    if (how == "allOf" && value.size() > 1) {
      return Error(here, "is supported with one schema only");
    }
    for (size_t i = 0; i < value.size(); ++i) {
      ASSIGN_OR_RETURN(const int32_t one,
                       Rule(value[i], absl::StrCat(here, "[", i, "]")));
      g_.SetFinal(g_.CallRule(start, one));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int32_t> Reference(const Json& value,
                                    const std::string& path) {
    const std::string ref = value.is_string() ? value.get<std::string>() : "";
    if (!absl::StartsWith(ref, "#")) {
      return Error(path, absl::StrCat("is ", Shown(value),
                                      "; want a place in the schema, "
                                      "\"#/...\""));
    }
    const auto known = by_ref_.find(ref);
    if (known != by_ref_.end()) return known->second;
    const Json* target = nullptr;
    try {
      target = &root_.at(Json::json_pointer(ref.substr(1)));
    } catch (const Json::exception&) {
      return Error(path, absl::StrCat("is ", Shown(value),
                                      ", which is not in the schema"));
    }
    if (++num_open_references_ > kMaxReferences) {
      return Error(path, absl::StrCat("is more than ", kMaxReferences,
                                      " references deep"));
    }
    const int32_t rule = g_.AddRule(ref);
    by_ref_[ref] = rule;
    RETURN_IF_ERROR(Fill(*target, ref, rule));
    --num_open_references_;
    return rule;
  }

  absl::StatusOr<std::vector<std::string>> TypesOf(const Json& schema,
                                                   const std::string& path) {
    std::vector<std::string> types;
    if (!schema.contains("type")) {
      // Of the types that keywords speak of; without any, all.
      for (const auto& [type, keywords] : KeywordsOf()) {
        for (const std::string& keyword : keywords) {
          if (schema.contains(keyword) &&
              (types.empty() || types.back() != type)) {
            types.push_back(type);
          }
        }
      }
      if (!types.empty()) return types;
      for (const auto& [type, keywords] : KeywordsOf()) types.push_back(type);
      return types;
    }
    const Json& type = schema["type"];
    const Json list = type.is_array() ? type : Json::array({type});
    for (const Json& one : list) {
      if (!one.is_string() || KeywordsOf().count(one.get<std::string>()) == 0) {
        return Error(absl::StrCat(path, ".type"),
                     absl::StrCat("is ", Shown(one),
                                  "; want object, array, string, number, "
                                  "integer, boolean or null"));
      }
      types.push_back(one.get<std::string>());
    }
    if (types.empty()) {
      return Error(absl::StrCat(path, ".type"), "is empty");
    }
    return types;
  }

  absl::Status FillLiterals(const Json& schema,
                            const std::vector<std::string>& types,
                            const std::string& path, int32_t rule) {
    if (schema.contains("enum") && !schema["enum"].is_array()) {
      return Error(absl::StrCat(path, ".enum"), "is no list");
    }
    const Json list = schema.contains("enum") ? schema["enum"]
                                              : Json::array({schema["const"]});
    bool any = false;
    for (const Json& value : list) {
      if (schema.contains("const") && value != schema["const"]) continue;
      const bool typed =
          std::any_of(types.begin(), types.end(),
                      [&](const auto& type) { return IsOfType(value, type); });
      if (!typed) continue;
      any = true;
      RETURN_IF_ERROR(Room(static_cast<int64_t>(value.dump().size())));
      g_.SetFinal(g_.Text(g_.start(rule), value.dump()));
    }
    if (!any) g_.SetImpossible(rule, "no value of enum or const is allowed");
    return absl::OkStatus();
  }

  // A whole number from 0 to kMaxCount; -1 if it is not there.
  absl::StatusOr<int64_t> Count(const Json& schema, const char* key,
                                const std::string& path) {
    if (!schema.contains(key)) return -1;
    const Json& value = schema[key];
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxCount) {
      return Error(absl::StrCat(path, ".", key),
                   absl::StrCat("is ", Shown(value),
                                "; want a whole number from 0 to ", kMaxCount));
    }
    return value.get<int64_t>();
  }

  absl::Status FillType(const Json& schema, const std::string& type,
                        const std::string& path, int32_t rule) {
    const int32_t start = g_.start(rule);
    if (type == "object") return FillObject(schema, path, rule);
    if (type == "array") return FillArray(schema, path, rule);
    if (type == "string") {
      ASSIGN_OR_RETURN(const int64_t min, Count(schema, "minLength", path));
      ASSIGN_OR_RETURN(const int64_t max, Count(schema, "maxLength", path));
      if (max >= 0 && min > max) {
        g_.SetImpossible(rule, absl::StrCat("minLength is ", min,
                                            ", above maxLength ", max));
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(Room(2 * std::max(min, max) + 4));
      g_.SetFinal(min <= 0 && max < 0
                      ? g_.CallRule(start, rules_.String())
                      : rules_.StringOf(start, std::max<int64_t>(0, min), max));
      return absl::OkStatus();
    }
    if (type == "integer" &&
        (schema.contains("minimum") || schema.contains("maximum"))) {
      return FillIntegers(schema, path, rule);
    }
    g_.SetFinal(g_.CallRule(start, type == "integer"   ? rules_.Integer()
                                   : type == "number"  ? rules_.Number()
                                   : type == "boolean" ? rules_.Boolean()
                                                       : rules_.Null()));
    return absl::OkStatus();
  }

  absl::Status FillIntegers(const Json& schema, const std::string& path,
                            int32_t rule) {
    for (const char* key : {"minimum", "maximum"}) {
      if (schema.contains(key) && schema[key].is_number_integer() &&
          std::abs(schema[key].get<double>()) < 1e15) {
        continue;
      }
      return Error(absl::StrCat(path, ".", key),
                   "is supported as a whole number, beside the other bound");
    }
    const auto min = schema["minimum"].get<int64_t>();
    const auto max = schema["maximum"].get<int64_t>();
    if (min > max) {
      g_.SetImpossible(
          rule, absl::StrCat("minimum is ", min, ", above maximum ", max));
    }
    if (max - min > kMaxSpan) {
      return Error(absl::StrCat(path, ".maximum"),
                   absl::StrCat("is ", max - min,
                                " above minimum; want at most ", kMaxSpan));
    }
    constexpr int64_t kMostDigits = 20;
    RETURN_IF_ERROR(Room((max - min + 1) * kMostDigits));
    for (int64_t i = min; i <= max; ++i) {
      g_.SetFinal(g_.Text(g_.start(rule), absl::StrCat(i)));
    }
    return absl::OkStatus();
  }

  absl::Status FillArray(const Json& schema, const std::string& path,
                         int32_t rule) {
    ASSIGN_OR_RETURN(int64_t min, Count(schema, "minItems", path));
    ASSIGN_OR_RETURN(const int64_t max, Count(schema, "maxItems", path));
    min = std::max<int64_t>(0, min);
    if (max >= 0 && min > max) {
      g_.SetImpossible(
          rule, absl::StrCat("minItems is ", min, ", above maxItems ", max));
      return absl::OkStatus();
    }
    std::vector<int32_t> first;
    if (schema.contains("prefixItems")) {
      const Json& list = schema["prefixItems"];
      const std::string here = absl::StrCat(path, ".prefixItems");
      if (!list.is_array()) return Error(here, "is no list of schemas");
      for (size_t i = 0; i < list.size(); ++i) {
        ASSIGN_OR_RETURN(const int32_t one,
                         Rule(list[i], absl::StrCat(here, "[", i, "]")));
        first.push_back(one);
      }
    }
    int32_t item = rules_.Any();
    if (schema.contains("items")) {
      ASSIGN_OR_RETURN(item,
                       Rule(schema["items"], absl::StrCat(path, ".items")));
    }
    constexpr int64_t kStatesOfItem = 4;
    RETURN_IF_ERROR(
        Room(kStatesOfItem *
             (std::max(min, max) + static_cast<int64_t>(first.size()) + 2)));
    g_.SetFinal(rules_.List(g_.start(rule), first, item, min, max));
    return absl::OkStatus();
  }

  absl::Status FillObject(const Json& schema, const std::string& path,
                          int32_t rule) {
    const int32_t start = g_.start(rule);
    const Json properties = schema.value("properties", Json::object());
    const Json required = schema.value("required", Json::array());
    if (!properties.is_object()) {
      return Error(absl::StrCat(path, ".properties"), "is no object");
    }
    if (!required.is_array()) {
      return Error(absl::StrCat(path, ".required"), "is no list");
    }
    const bool closed = schema.contains("additionalProperties") &&
                        schema["additionalProperties"] == Json(false);
    int32_t other = rules_.Any();
    if (schema.contains("additionalProperties") && !closed) {
      ASSIGN_OR_RETURN(other,
                       Rule(schema["additionalProperties"],
                            absl::StrCat(path, ".additionalProperties")));
    }
    struct Property {
      std::string key;
      int32_t value;
      bool required;
    };
    std::vector<Property> all;
    for (const auto& [key, value] : properties.items()) {
      ASSIGN_OR_RETURN(const int32_t one,
                       Rule(value, absl::StrCat(path, ".properties.", key)));
      all.push_back({key, one, false});
    }
    for (const Json& name : required) {
      if (!name.is_string()) {
        return Error(absl::StrCat(path, ".required"),
                     absl::StrCat("has ", Shown(name), "; want strings"));
      }
      const auto it = std::find_if(all.begin(), all.end(), [&](const auto& p) {
        return p.key == name.get<std::string>();
      });
      if (it != all.end()) {
        it->required = true;
      } else if (closed) {
        g_.SetImpossible(rule, absl::StrCat("required has ", Shown(name),
                                            ", which is no property"));
        return absl::OkStatus();
      } else {
        all.push_back({name.get<std::string>(), other, true});
      }
    }
    if (all.empty() && !closed) {
      g_.SetFinal(rules_.Map(start, other));
      return absl::OkStatus();
    }
    // Before each property: nothing is written yet, or something is.
    int32_t none = g_.Range(start, '{', '{');
    int32_t some = g_.AddState();
    for (const Property& p : all) {
      constexpr int64_t kStatesOfProperty = 10;
      const std::string quoted = Json(p.key).dump();
      RETURN_IF_ERROR(
          Room(static_cast<int64_t>(quoted.size()) + kStatesOfProperty));
      const int32_t key = g_.AddState();
      g_.Jump(g_.CallRule(none, rules_.Space()), key);
      g_.Jump(g_.CallRule(g_.Range(some, ',', ','), rules_.Space()), key);
      const int32_t colon = g_.Range(g_.Text(key, quoted), ':', ':');
      const int32_t after =
          g_.CallRule(g_.CallRule(colon, rules_.Space()), p.value);
      const int32_t none_after = g_.AddState();
      if (!p.required) {
        g_.Jump(none, none_after);
        g_.Jump(some, after);
      }
      none = none_after;
      some = after;
    }
    const int32_t close = g_.AddState();
    g_.Jump(g_.CallRule(none, rules_.Space()), close);
    g_.Jump(g_.CallRule(some, rules_.Space()), close);
    g_.SetFinal(g_.Range(close, '}', '}'));
    return absl::OkStatus();
  }

  const Json& root_;
  const std::string path_;
  ByteGrammar g_;
  JsonRules rules_;
  std::map<std::string, int32_t> by_ref_;
  int num_open_references_ = 0;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const ByteGrammar>> CompileJsonSchema(
    const Json& schema, const std::string& path) {
  return Compiler(schema, path).Run();
}

}  // namespace strata
