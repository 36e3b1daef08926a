"""fuzz_target: a reader under damaged input, as a test and for libFuzzer."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_test")

# target_compatible_with for what only clang's libFuzzer can link.
REQUIRES_FUZZ = select({
    "//tools/bazel:fuzz_enabled": [],
    "//conditions:default": ["//tools/bazel:needs_config_fuzz"],
})

def fuzz_target(name, deps, visibility = None):
    """Declares the fuzzer `name` and the test name_test, of name.cc.

    Args:
      name: the target; ends in "_fuzz". Its source defines what
        core/testing/fuzz_target.h declares.
      deps: what the source includes beyond that header.
      visibility: of the fuzzer.
    """
    cc_test(
        name = name + "_test",
        size = "small",
        srcs = [name + ".cc"],
        deps = deps + [
            "//core/testing:fuzz_target",
            "//core/testing:fuzz_test_main",
        ],
    )
    cc_binary(
        name = name,
        testonly = True,
        srcs = [name + ".cc"],
        linkopts = ["-fsanitize=fuzzer"],
        tags = ["manual"],
        target_compatible_with = REQUIRES_FUZZ,
        visibility = visibility,
        deps = deps + [
            "//core/testing:fuzz_mutator",
            "//core/testing:fuzz_target",
        ],
    )
