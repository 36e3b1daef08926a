// The options of a command line, over CLI11. Only option_parser.cc reads its
// header: that costs seven seconds of compilation a file, and each subcommand
// is a file.

#ifndef TOOLS_STRATA_OPTION_PARSER_H_
#define TOOLS_STRATA_OPTION_PARSER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace strata {

// Says what is wrong with a value, in words that follow the option's name;
// empty: nothing.
using ValueCheck = std::function<std::string(const std::string& value)>;

ValueCheck AtLeast(int64_t least);
ValueCheck Between(int64_t least, int64_t most);
ValueCheck MoreThanZero();
ValueCheck BetweenNumbers(double least, double most);
ValueCheck OneOf(std::vector<std::string> values);

// One option, or positional argument. Setters return `this`.
class Option {
 public:
  explicit Option(CLI::Option* impl) : impl_(impl) {}

  Option* TypeName(const std::string& name);     // Of its value, in --help.
  Option* ShowDefault(const std::string& text);  // Instead of the variable's.
  Option* Required();
  Option* Check(ValueCheck check);
  Option* Needs(const Option* other);
  Option* Excludes(const Option* other);
  Option* Expected(int num_values);
  Option* Expected(int min_values, int max_values);
  Option* Delimiter(char between_values);
  Option* OneValueAtATime();  // Of a list: repeated, not "--set a b".

  std::string name() const;  // As "--steps".
  bool is_given() const;
  // As it was given, or its default; "true" of a flag that is given.
  std::string value() const;

 private:
  CLI::Option* impl_;
};

// A command, a subcommand or a group of options. What it returns it owns.
class OptionParser {
 public:
  OptionParser(const std::string& name, const std::string& description);
  OptionParser(const OptionParser&) = delete;
  OptionParser& operator=(const OptionParser&) = delete;
  ~OptionParser();

  OptionParser* AddSubcommand(const std::string& name,
                              const std::string& description);
  void RequireSubcommand(int min, int max);
  // How many of its options must be given is RequireOption's to say.
  OptionParser* AddGroup(const std::string& name);
  void RequireOption(int min, int max);
  void AddVersion(const std::string& text);  // --version

  // `name` is "--long" or, of a positional argument, bare. The value of
  // `variable` is the default; it must outlive parsing.
  Option* AddOption(const std::string& name, std::string& variable,
                    const std::string& description);
  Option* AddOption(const std::string& name, int& variable,
                    const std::string& description);
  Option* AddOption(const std::string& name, int64_t& variable,
                    const std::string& description);
  Option* AddOption(const std::string& name, uint64_t& variable,
                    const std::string& description);
  Option* AddOption(const std::string& name, float& variable,
                    const std::string& description);
  Option* AddOption(const std::string& name, double& variable,
                    const std::string& description);
  Option* AddOption(const std::string& name, std::vector<std::string>& variable,
                    const std::string& description);
  Option* AddOption(const std::string& name, std::vector<int32_t>& variable,
                    const std::string& description);
  // Called with the value if the option is given.
  Option* AddOption(const std::string& name,
                    std::function<void(const std::string&)> use,
                    const std::string& description);
  Option* AddFlag(const std::string& name, bool& variable,
                  const std::string& description);

  // The text to be printed if only help or the version was asked for.
  //
  // Returns INVALID_ARGUMENT, with what is wrong.
  absl::StatusOr<std::optional<std::string>> Parse(int argc,
                                                   const char* const* argv);

  std::string name() const;
  bool is_called() const;  // Of a subcommand, after Parse.
  // Its own and its groups', --help too.
  std::vector<const Option*> options() const;
  const Option* FindOption(const std::string& name) const;  // nullptr: none.

 private:
  explicit OptionParser(CLI::App* app);
  OptionParser* Own(CLI::App* app);
  template <typename T>
  Option* Add(const std::string& name, T& variable,
              const std::string& description);
  Option* Own(CLI::Option* option);

  std::unique_ptr<CLI::App> root_;  // Of the outermost only.
  CLI::App* app_;
  std::deque<Option> options_;
  std::vector<std::unique_ptr<OptionParser>> parsers_;
};

}  // namespace strata

#endif  // TOOLS_STRATA_OPTION_PARSER_H_
