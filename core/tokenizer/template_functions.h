// What chat templates call: filters, tests, functions, and methods of strings
// and dictionaries. A subset of Jinja's and Python's, with their results.

#ifndef CORE_TOKENIZER_TEMPLATE_FUNCTIONS_H_
#define CORE_TOKENIZER_TEMPLATE_FUNCTIONS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/tokenizer/template_value.h"

namespace strata {

// What a rendering may cost, so that every template comes to an end in little
// time and memory. A step is the evaluation of a node or the making of 16 bytes
// or of an item.
class TemplateBudget {
 public:
  static constexpr int64_t kSteps = 4 * 1000 * 1000;
  static constexpr size_t kMaxBytes = size_t{16} << 20;  // Of a string.

  explicit TemplateBudget(int64_t steps = kSteps) : limit_(steps) {}

  // Returns RESOURCE_EXHAUSTED once it is used up.
  absl::Status Spend(int64_t steps = 1);
  // For a string that is about to be made.
  absl::Status SpendBytes(size_t bytes);
  // For a search, which compares their product at worst.
  absl::Status SpendSearch(absl::string_view text, absl::string_view part);

 private:
  const int64_t limit_;
  int64_t spent_ = 0;
};

struct TemplateArguments {
  std::vector<TemplateValue> positional;
  std::vector<std::pair<std::string, TemplateValue>> named;
};

// What a for loop walks over: items, keys, characters; of undefined nothing.
absl::StatusOr<TemplateValue::List> TemplateItems(const TemplateValue& value,
                                                  TemplateBudget& budget);

// Each returns INVALID_ARGUMENT if there is none of that name, with the names
// there are, or if it does not take such values.
absl::StatusOr<TemplateValue> CallTemplateFilter(absl::string_view name,
                                                 const TemplateValue& input,
                                                 const TemplateArguments& args,
                                                 TemplateBudget& budget);
absl::StatusOr<bool> CallTemplateTest(absl::string_view name,
                                      const TemplateValue& input,
                                      const TemplateArguments& args,
                                      TemplateBudget& budget);
absl::StatusOr<TemplateValue> CallTemplateMethod(const TemplateValue& object,
                                                 absl::string_view name,
                                                 const TemplateArguments& args,
                                                 TemplateBudget& budget);

// range, dict, namespace, raise_exception, and strftime_now if there is a
// `now`.
bool IsTemplateFunction(absl::string_view name, bool has_now);
absl::StatusOr<TemplateValue> CallTemplateFunction(
    absl::string_view name, const TemplateArguments& args,
    const std::optional<absl::Time>& now, TemplateBudget& budget);

// object.name and object[key]; undefined if there is no such thing.
absl::StatusOr<TemplateValue> TemplateAttribute(const TemplateValue& object,
                                                const std::string& name);
absl::StatusOr<TemplateValue> TemplateItem(const TemplateValue& object,
                                           const TemplateValue& key);

// object[start:stop:step]; each may be none.
absl::StatusOr<TemplateValue> TemplateSlice(const TemplateValue& object,
                                            const TemplateValue& start,
                                            const TemplateValue& stop,
                                            const TemplateValue& step,
                                            TemplateBudget& budget);

// a + b, a ~ b, a in b ...: `sign` is as in the template.
absl::StatusOr<TemplateValue> TemplateBinary(absl::string_view sign,
                                             const TemplateValue& a,
                                             const TemplateValue& b,
                                             TemplateBudget& budget);
absl::StatusOr<bool> TemplateCompare(absl::string_view sign,
                                     const TemplateValue& a,
                                     const TemplateValue& b,
                                     TemplateBudget& budget);

}  // namespace strata

#endif  // CORE_TOKENIZER_TEMPLATE_FUNCTIONS_H_
