// The typed attributes of a node: what is known of it when the graph is built.

#ifndef CORE_GRAPH_ATTRS_H_
#define CORE_GRAPH_ATTRS_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace strata {

// A handful of (name, value) pairs, kept in the order in which they were given.
// Reading a name that is absent, or as another type, is a bug and stops.
class Attrs {
 public:
  using Value = std::variant<int64_t, double, std::string>;

  Attrs() = default;
  Attrs(std::initializer_list<std::pair<absl::string_view, Value>> values);

  int64_t Int(absl::string_view name) const;
  double Float(absl::string_view name) const;
  const std::string& String(absl::string_view name) const;
  bool Has(absl::string_view name) const;

  // "transpose_b=1 scale=0.125"
  std::string ToString() const;

 private:
  const Value* Find(absl::string_view name) const;
  const Value& Get(absl::string_view name) const;

  std::vector<std::pair<std::string, Value>> values_;
};

}  // namespace strata

#endif  // CORE_GRAPH_ATTRS_H_
