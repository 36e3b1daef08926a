#include "tools/strata/option_parser.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace strata {
namespace {

constexpr int kNameColumns = 30;

}  // namespace

ValueCheck AtLeast(int64_t least) {
  return Between(least, std::numeric_limits<int64_t>::max());
}

ValueCheck Between(int64_t least, int64_t most) {
  return [least, most](const std::string& text) -> std::string {
    int64_t number;
    if (absl::SimpleAtoi(text, &number) && number >= least && number <= most) {
      return "";
    }
    return absl::StrCat(text, " is no whole number of at least ", least,
                        most == std::numeric_limits<int64_t>::max()
                            ? ""
                            : absl::StrCat(" and at most ", most));
  };
}

ValueCheck MoreThanZero() {
  return [](const std::string& text) -> std::string {
    double number;
    if (absl::SimpleAtod(text, &number) && number > 0 &&
        std::isfinite(number)) {
      return "";
    }
    return absl::StrCat(text, " is no number above 0");
  };
}

ValueCheck BetweenNumbers(double least, double most) {
  return [least, most](const std::string& text) -> std::string {
    double number;
    if (absl::SimpleAtod(text, &number) && number >= least && number <= most) {
      return "";
    }
    return absl::StrCat(text, " is no number from ", least, " to ", most);
  };
}

ValueCheck OneOf(std::vector<std::string> values) {
  return [values](const std::string& text) -> std::string {
    if (std::find(values.begin(), values.end(), text) != values.end()) {
      return "";
    }
    return absl::StrCat("is \"", text, "\"; want ",
                        absl::StrJoin(values, " or "));
  };
}

Option* Option::TypeName(const std::string& name) {
  impl_->type_name(name);
  return this;
}

Option* Option::ShowDefault(const std::string& text) {
  impl_->default_str(text);
  return this;
}

Option* Option::Required() {
  impl_->required();
  return this;
}

Option* Option::Check(ValueCheck check) {
  impl_->check(CLI::Validator(
      [check = std::move(check)](std::string& value) { return check(value); },
      /*validator_desc=*/""));
  return this;
}

Option* Option::Needs(const Option* other) {
  impl_->needs(other->impl_);
  return this;
}

Option* Option::Excludes(const Option* other) {
  impl_->excludes(other->impl_);
  return this;
}

Option* Option::Expected(int num_values) {
  impl_->expected(num_values);
  return this;
}

Option* Option::Expected(int min_values, int max_values) {
  impl_->expected(min_values, max_values);
  return this;
}

Option* Option::Delimiter(char between_values) {
  impl_->delimiter(between_values);
  return this;
}

Option* Option::OneValueAtATime() {
  impl_->allow_extra_args(false);
  return this;
}

std::string Option::name() const { return impl_->get_name(); }

bool Option::is_given() const { return impl_->count() > 0; }

std::string Option::value() const {
  if (!is_given()) return impl_->get_default_str();
  return absl::StrJoin(impl_->results(), " ");
}

OptionParser::OptionParser(const std::string& name,
                           const std::string& description)
    : root_(std::make_unique<CLI::App>(description, name)), app_(root_.get()) {
  app_->get_formatter()->column_width(kNameColumns);
  app_->option_defaults()->always_capture_default();
}

OptionParser::OptionParser(CLI::App* app) : app_(app) {}

OptionParser::~OptionParser() = default;

OptionParser* OptionParser::Own(CLI::App* app) {
  parsers_.push_back(std::unique_ptr<OptionParser>(new OptionParser(app)));
  return parsers_.back().get();
}

Option* OptionParser::Own(CLI::Option* option) {
  return &options_.emplace_back(option);
}

OptionParser* OptionParser::AddSubcommand(const std::string& name,
                                          const std::string& description) {
  return Own(app_->add_subcommand(name, description));
}

void OptionParser::RequireSubcommand(int min, int max) {
  app_->require_subcommand(min, max);
}

OptionParser* OptionParser::AddGroup(const std::string& name) {
  return Own(app_->add_option_group(name));
}

void OptionParser::RequireOption(int min, int max) {
  app_->require_option(min, max);
}

void OptionParser::AddVersion(const std::string& text) {
  app_->set_version_flag("--version", text,
                         "Print version and commit, and exit");
}

template <typename T>
Option* OptionParser::Add(const std::string& name, T& variable,
                          const std::string& description) {
  return Own(app_->add_option(name, variable, description));
}

Option* OptionParser::AddOption(const std::string& name, std::string& variable,
                                const std::string& description) {
  return Add(name, variable, description);
}

Option* OptionParser::AddOption(const std::string& name, int& variable,
                                const std::string& description) {
  return Add(name, variable, description);
}

Option* OptionParser::AddOption(const std::string& name, int64_t& variable,
                                const std::string& description) {
  return Add(name, variable, description);
}

Option* OptionParser::AddOption(const std::string& name, uint64_t& variable,
                                const std::string& description) {
  return Add(name, variable, description);
}

Option* OptionParser::AddOption(const std::string& name, float& variable,
                                const std::string& description) {
  return Add(name, variable, description);
}

Option* OptionParser::AddOption(const std::string& name, double& variable,
                                const std::string& description) {
  return Add(name, variable, description);
}

Option* OptionParser::AddOption(const std::string& name,
                                std::vector<std::string>& variable,
                                const std::string& description) {
  return Add(name, variable, description);
}

Option* OptionParser::AddOption(const std::string& name,
                                std::vector<int32_t>& variable,
                                const std::string& description) {
  return Add(name, variable, description);
}

Option* OptionParser::AddOption(const std::string& name,
                                std::function<void(const std::string&)> use,
                                const std::string& description) {
  return Own(app_->add_option_function<std::string>(name, std::move(use),
                                                    description));
}

Option* OptionParser::AddFlag(const std::string& name, bool& variable,
                              const std::string& description) {
  return Own(app_->add_flag(name, variable, description));
}

absl::StatusOr<std::optional<std::string>> OptionParser::Parse(
    int argc, const char* const* argv) {
  try {
    app_->parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return app_->help();
  } catch (const CLI::CallForVersion& version) {
    return absl::StrCat(version.what(), "\n");
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  return std::nullopt;
}

std::string OptionParser::name() const { return app_->get_name(); }

bool OptionParser::is_called() const { return app_->parsed(); }

std::vector<const Option*> OptionParser::options() const {
  std::vector<const Option*> all;
  for (const Option& option : options_) all.push_back(&option);
  for (const auto& parser : parsers_) {
    for (const Option* option : parser->options()) all.push_back(option);
  }
  return all;
}

const Option* OptionParser::FindOption(const std::string& name) const {
  for (const Option* option : options()) {
    if (option->name() == name) return option;
  }
  return nullptr;
}

}  // namespace strata
