#include "sim/validation/constants.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;

std::string Constant(absl::string_view name, absl::string_view value) {
  return absl::StrCat("constant { name: \"", name, "\" value: ", value,
                      " meaning: \"m\" origin: \"o\" }\n");
}

std::string Machine(absl::string_view inside) {
  return absl::StrCat("left_out_error: 0.04 machine { kind: \"x\"\n", inside,
                      "}\n");
}

TEST(ParseConstantsTest, GivesEachKindItsConstants) {
  const absl::StatusOr<Constants> constants = ParseConstants(
      absl::StrCat(Machine(Constant("product_share", "0.9")),
                   "framework { name: \"f\" efficiency: 0.8 origin: \"o\" }"));
  ASSERT_THAT(constants, IsOk());

  const absl::StatusOr<Software> software = SoftwareOf(*constants, "f");

  ASSERT_THAT(software, IsOk());
  EXPECT_EQ(software->efficiency, 0.8);
  EXPECT_EQ(software->On("x").product_share, 0.9);
  // A kind that nobody measured has the data sheet's rates.
  EXPECT_EQ(software->On("y").product_share, 1);
}

// Those of Strata's own trainer: nothing waits for the host within a step.
TEST(ParseConstantsTest, ReadsTheTrainersOwn) {
  for (const std::string file : {"sim/validation/strata_h100.textproto",
                                 "sim/validation/strata_h100_bf16.textproto"}) {
    SCOPED_TRACE(file);
    const absl::StatusOr<std::string> text = ReadFile(file);
    ASSERT_THAT(text, IsOk());
    const absl::StatusOr<Constants> constants = ParseConstants(*text);
    ASSERT_THAT(constants, IsOk());

    const absl::StatusOr<Software> software = SoftwareOf(*constants, "strata");

    ASSERT_THAT(software, IsOk());
    const TrainingConstants of = software->On("h100");
    EXPECT_EQ(of.host_seconds_per_node, 0);
    EXPECT_EQ(of.row_count_seconds, 0);
    EXPECT_GT(of.host_seconds_per_step, 0);
    EXPECT_GT(of.row_exchange_gb_per_s, 0);
    EXPECT_GT(of.row_exchange_seconds, 0);
  }
}

TEST(ParseConstantsTest, AKindWithFewRowsIsAsUncertainAsAll) {
  const auto error = [](absl::string_view residual) {
    const absl::StatusOr<Constants> constants =
        ParseConstants(Machine(residual));
    EXPECT_THAT(constants, IsOk());
    return constants->machine.On("x").step_error;
  };
  EXPECT_EQ(error(""), 0.04);
  // Its one row was met, as it was fitted to it: no reason to trust the next.
  EXPECT_EQ(error("residual { kind: \"x\" rows: 1 left_out_error: 0.0 }"),
            0.04);
  EXPECT_EQ(error("residual { kind: \"x\" rows: 4 left_out_error: 0.01 }"),
            0.04);
  EXPECT_EQ(error("residual { kind: \"x\" rows: 5 left_out_error: 0.01 }"),
            0.01);
  EXPECT_EQ(ParseConstants(Machine(""))->machine.On("unknown").step_error,
            0.04);
}

TEST(ParseConstantsTest, RejectsWhatIsNoConstant) {
  std::string eleven;
  for (int i = 0; i < 11; ++i) eleven += Constant("product_share", "1");
  struct Case {
    std::string text;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {"machine {", "line 1"},
           {"kind,name,value\n", "line 1"},
           {"", "left_out_error is 0"},
           {Machine(Constant("speed", "1")), "\"speed\" of x"},
           {Machine(Constant("collective_sms", "-1")), "is -1"},
           {Machine(Constant("product_share", "0")), "product_share of x is 0"},
           {Machine(Constant("collective_sms", "1") +
                    Constant("collective_sms", "2")),
            "given twice"},
           {Machine("constant { name: \"collective_sms\" value: 1 }"),
            "lacks its meaning or origin"},
           {Machine(eleven), "11 for x; want at most 10"},
           {Machine("") + "machine { kind: \"x\" }", "kind x is given twice"},
           {Machine("residual { kind: \"x\" rows: 9 }"), "residual of x is 0"},
           {Machine("") + "framework { name: \"f\" }", "efficiency of f is 0"},
           {Machine("") + "framework { name: \"f\" efficiency: 1 } "
                          "framework { name: \"f\" efficiency: 1 }",
            "framework f is given twice"}}) {
    EXPECT_THAT(
        ParseConstants(c.text),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)))
        << c.text;
  }
}

TEST(DefaultConstantsTest, AreTenAtMostForEachKindAndNeverCertain) {
  const absl::StatusOr<Constants> constants = DefaultConstants();
  ASSERT_THAT(constants, IsOk());
  for (const MachineConstants& machine : constants->calibration.machine()) {
    EXPECT_LE(machine.constant_size(), kMaxMachineConstants);
  }
  for (const char* kind : {"a100", "h100", "h200", "h800", "b200", "other"}) {
    EXPECT_GT(constants->machine.On(kind).step_error, 0.01) << kind;
  }
}

TEST(SoftwareOfTest, UnknownFrameworksAreListed) {
  EXPECT_THAT(
      SoftwareOf(*DefaultConstants(), "no-such"),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("megatron-core")));
}

}  // namespace
}  // namespace strata::sim
