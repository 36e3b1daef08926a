"""op_family: what a family of operators is."""

load("@rules_cc//cc:defs.bzl", "cc_library")

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
