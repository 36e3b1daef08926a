"""kernel_family: the kernels of one family of operators, and their tests."""

load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")

def kernel_family(name, ops = None, deps = [], tests = None, test_deps = []):
    """Declares the library `name`, of name.h and name.cc, and its tests.

    Args:
      name: the family; what registers its kernels.
      ops: the target that defines the operators, if not //core/ops:name.
      deps: what the library needs beyond the operators and what every kernel
        is made of.
      tests: the test targets, each of a source of the same name; by default
        one, name_test.
      test_deps: what the tests need beyond the library and what tests of
        kernels share.
    """
    ops = ops or "//core/ops:" + name
    cc_library(
        name = name,
        srcs = [name + ".cc"],
        hdrs = [name + ".h"],
        visibility = ["//:above_core"],
        deps = deps + [
            ops,
            "//core/runtime:kernel",
            "//core/runtime:kernel_registry",
            "//core/tensor",
            "@com_google_absl//absl/status",
        ],
    )
    for test in [name + "_test"] if tests == None else tests:
        cc_test(
            name = test,
            size = "small",
            srcs = [test + ".cc"],
            deps = test_deps + [
                ":" + name,
                ops,
                "//core/graph:builder",
                "//core/tensor:bfloat16",
                "//core/tensor:dtype",
                "//core/testing:grad_check",
                "//core/testing:graph_run",
                "//core/testing:status_matchers",
                "@com_google_absl//absl/status",
                "@com_google_absl//absl/status:statusor",
                "@com_google_googletest//:gtest_main",
            ],
        )
