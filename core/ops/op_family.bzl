"""op_family: what a family of operators is, and op_test: what holds it."""

load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")

def op_family(name, deps = []):
    """Declares the library `name`, of name.h and name.cc.

    Args:
      name: the family.
      deps: what it needs beyond what every operator is declared with.
    """
    cc_library(
        name = name,
        srcs = [name + ".cc"],
        hdrs = [name + ".h"],
        visibility = ["//:above_core"],
        deps = deps + [
            ":operand_checks",
            "//core/base:status_macros",
            "//core/graph",
            "@com_google_absl//absl/status",
            "@com_google_absl//absl/status:statusor",
        ],
    )

def op_test(name, deps):
    """Declares the test `name`, of name.cc.

    Args:
      name: the test.
      deps: what it needs beyond what a test of an operator's types, errors and
        cost does.
    """
    cc_test(
        name = name,
        size = "small",
        srcs = [name + ".cc"],
        deps = deps + [
            "//core/graph",
            "//core/graph:builder",
            "//core/testing:status_matchers",
            "@com_google_absl//absl/status",
            "@com_google_googletest//:gtest_main",
        ],
    )
