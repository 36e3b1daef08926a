// A value of a chat template: what Jinja calls by Python's names.
//
// Lists and dictionaries do not change once made, so values share them and are
// cheap to copy. A namespace does change; it never lies within another value,
// so that nothing refers to itself. Values nest kMaxDepth deep at most, which
// bounds every recursion over them.

#ifndef CORE_TOKENIZER_TEMPLATE_VALUE_H_
#define CORE_TOKENIZER_TEMPLATE_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {

class TemplateValue {
 public:
  static constexpr int kMaxDepth = 100;
  static constexpr int64_t kMaxWeight = 1 << 20;

  using List = std::vector<TemplateValue>;

  // In the order in which keys were first set.
  class Dict {
   public:
    void Set(const std::string& key, TemplateValue value);
    const TemplateValue* Find(absl::string_view key) const;
    const std::vector<std::pair<std::string, TemplateValue>>& entries() const {
      return entries_;
    }

   private:
    std::vector<std::pair<std::string, TemplateValue>> entries_;
    absl::flat_hash_map<std::string, size_t> index_;
  };

  struct Undefined {
    std::string name;  // What was looked up in vain.
  };
  struct None {};
  struct Namespace {
    Dict fields;
  };
  struct Macro {
    int node = 0;
  };
  // The variable `loop` of a for.
  struct Loop {
    std::shared_ptr<const List> items;
    int64_t index = 0;  // From 0.
  };

  TemplateValue() : data_(Undefined{}) {}  // Undefined.
  TemplateValue(bool value) : data_(value) {}
  TemplateValue(int64_t value) : data_(value) {}
  TemplateValue(double value) : data_(value) {}
  TemplateValue(std::string value)
      : data_(std::make_shared<const std::string>(std::move(value))) {}
  TemplateValue(const char* value) : TemplateValue(std::string(value)) {}
  TemplateValue(Macro macro) : data_(macro) {}
  TemplateValue(std::shared_ptr<Namespace> space) : data_(std::move(space)) {}
  TemplateValue(std::shared_ptr<const Loop> loop) : data_(std::move(loop)) {}

  static TemplateValue MakeUndefined(absl::string_view name);
  static TemplateValue MakeNone();
  // Of items: INVALID_ARGUMENT if that nests too deep or holds a namespace.
  static absl::StatusOr<TemplateValue> MakeList(List items);
  static absl::StatusOr<TemplateValue> MakeDict(Dict dict);
  static absl::StatusOr<TemplateValue> FromJson(
      const nlohmann::ordered_json& json, int depth = 0);

  bool is_undefined() const { return Is<Undefined>(); }
  bool is_none() const { return Is<None>(); }
  bool is_bool() const { return Is<bool>(); }
  bool is_int() const { return Is<int64_t>(); }
  bool is_float() const { return Is<double>(); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_string() const { return Is<std::shared_ptr<const std::string>>(); }
  bool is_list() const { return Is<std::shared_ptr<const ListData>>(); }
  bool is_dict() const { return Is<std::shared_ptr<const DictData>>(); }
  bool is_namespace() const { return Is<std::shared_ptr<Namespace>>(); }
  bool is_macro() const { return Is<Macro>(); }
  bool is_loop() const { return Is<std::shared_ptr<const Loop>>(); }

  // Each only of a value that is one.
  const std::string& undefined_name() const {
    return std::get<Undefined>(data_).name;
  }
  const std::string& string() const {
    return *std::get<std::shared_ptr<const std::string>>(data_);
  }
  const List& list() const {
    return std::get<std::shared_ptr<const ListData>>(data_)->items;
  }
  const Dict& dict() const {
    return std::get<std::shared_ptr<const DictData>>(data_)->dict;
  }
  Namespace& name_space() const {
    return *std::get<std::shared_ptr<Namespace>>(data_);
  }
  Macro macro() const { return std::get<Macro>(data_); }
  const Loop& loop() const {
    return *std::get<std::shared_ptr<const Loop>>(data_);
  }
  int64_t integer() const;  // Of a bool or an int.
  double number() const;    // Of a bool, an int or a float.

  // What it takes to walk over all of it: items, and 16 bytes of strings each.
  int64_t Weight() const;

  bool Truth() const;
  // "string", "list", ...
  absl::string_view TypeName() const;
  // What {{ }} prints: Python's str().
  std::string ToString() const;
  // Python's repr().
  std::string ToRepr() const;

  friend bool operator==(const TemplateValue& a, const TemplateValue& b);

 private:
  struct ListData {
    List items;
    int depth = 1;
    int64_t weight = 1;
  };
  struct DictData {
    Dict dict;
    int depth = 1;
    int64_t weight = 1;
  };

  template <typename T>
  bool Is() const {
    return std::holds_alternative<T>(data_);
  }
  int Depth() const;
  void AppendRepr(std::string& text) const;

  std::variant<Undefined, None, bool, int64_t, double,
               std::shared_ptr<const std::string>,
               std::shared_ptr<const ListData>, std::shared_ptr<const DictData>,
               std::shared_ptr<Namespace>, Macro, std::shared_ptr<const Loop>>
      data_;
};

// A float as Python prints it: 1.0, 1e-05, inf.
std::string FormatPythonFloat(double value);

struct TemplateJsonStyle {
  int indent = -1;  // Negative: on one line.
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// What Python's json.dumps gives.
//
// Returns INVALID_ARGUMENT if a value is in it that JSON does not have.
absl::StatusOr<std::string> ToTemplateJson(const TemplateValue& value,
                                           const TemplateJsonStyle& style);

}  // namespace strata

#endif  // CORE_TOKENIZER_TEMPLATE_VALUE_H_
