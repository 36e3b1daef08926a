"""cuda_library: a cc_library whose .cu sources nvcc compiles; and tests and
benchmarks that need a GPU.

The rule does one thing: it runs nvcc once per source and hands the objects to
Bazel's own C++ linking, so that cc_library, cc_test and cc_binary can depend on
a cuda_library as on any other library. Device code is not linked across
sources; keep __device__ functions that others call in .cuh headers.
"""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")
load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")

# target_compatible_with for a target that needs the CUDA toolkit to build.
# Without --config=cuda, `bazel test //...` skips such a target and says so.
REQUIRES_CUDA = select({
    "//tools/bazel:cuda_enabled": [],
    "//conditions:default": ["//tools/bazel:needs_config_cuda"],
})

def with_cuda(values, otherwise = []):
    """Returns `values` (srcs or deps) under --config=cuda, else `otherwise`."""
    return select({
        "//tools/bazel:cuda_enabled": values,
        "//conditions:default": otherwise,
    })

_GPU_TEST_TAGS = [
    "exclusive",  # One test at a time on the device.
    "gpu",
    "no-sandbox",  # /dev/nvidia*.
]

_MODE_FLAGS = {
    "dbg": ["-O0", "-g", "-G"],
    "fastbuild": ["-O1", "-lineinfo"],
    "opt": ["-O3", "-lineinfo", "-DNDEBUG"],
}

def _nvcc_args(ctx, context):
    """Returns what every source of the target is compiled with."""
    args = ctx.actions.args()
    args.add_all(["-std=c++17", "-Xcompiler", "-fPIC,-Wall", "--expt-relaxed-constexpr"])
    args.add_all(_MODE_FLAGS[ctx.var["COMPILATION_MODE"]])
    for arch in ctx.attr._archs[BuildSettingInfo].value:
        args.add("-gencode=arch=compute_{0},code=sm_{0}".format(arch))
    args.add_all(context.defines, before_each = "-D")
    args.add_all(context.quote_includes, before_each = "-I")  # nvcc has no -iquote.
    args.add_all(context.includes, before_each = "-I")
    args.add_all(context.system_includes, before_each = "-isystem")
    args.add_all(ctx.attr.copts)
    return args

def _cuda_library_impl(ctx):
    cc_toolchain = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = cc_toolchain,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features,
    )
    deps = cc_common.merge_cc_infos(cc_infos = [dep[CcInfo] for dep in ctx.attr.deps])
    hdrs = CcInfo(compilation_context = cc_common.create_compilation_context(
        headers = depset(ctx.files.hdrs),
        # Where "cuda/moe/router.h" is found: the workspace and its outputs.
        quote_includes = depset([".", ctx.bin_dir.path]),
    ))
    context = cc_common.merge_cc_infos(cc_infos = [hdrs, deps]).compilation_context

    args = _nvcc_args(ctx, context)
    objects = []
    for src in ctx.files.srcs:
        if src.extension != "cu":
            continue  # A header that only this target includes.
        obj = ctx.actions.declare_file("_objs/{}/{}.o".format(ctx.label.name, src.basename))
        objects.append(obj)
        ctx.actions.run(
            arguments = [args, "-c", src.path, "-o", obj.path],
            executable = ctx.attr._nvcc[BuildSettingInfo].value,
            inputs = depset(ctx.files.srcs, transitive = [context.headers]),
            mnemonic = "CudaCompile",
            outputs = [obj],
            progress_message = "Compiling %s" % src.short_path,
            use_default_shell_env = True,
        )

    linking_context, _ = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions,
        cc_toolchain = cc_toolchain,
        compilation_outputs = cc_common.create_compilation_outputs(
            objects = depset(objects),
            pic_objects = depset(objects),
        ),
        disallow_dynamic_library = True,
        feature_configuration = features,
        linking_contexts = [deps.linking_context],
        name = ctx.label.name,
    )
    return [
        DefaultInfo(files = depset(objects)),
        CcInfo(compilation_context = context, linking_context = linking_context),
    ]

_cuda_library = rule(
    implementation = _cuda_library_impl,
    attrs = {
        "copts": attr.string_list(doc = "Passed to nvcc."),
        "deps": attr.label_list(providers = [CcInfo]),
        "hdrs": attr.label_list(allow_files = [".h", ".cuh"]),
        "srcs": attr.label_list(allow_files = [".cu", ".cuh", ".h"]),
        "_archs": attr.label(default = "//tools/bazel:cuda_archs"),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
        "_nvcc": attr.label(default = "//tools/bazel:nvcc"),
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)

def cuda_library(name, deps = [], **kwargs):
    """A cc_library of .cu sources.

    Args:
      name: the target's name.
      deps: libraries; the CUDA runtime is among them already.
      **kwargs: the rule's other attributes.
    """
    _cuda_library(
        name = name,
        deps = deps + ["@local_cuda//:cudart"],
        target_compatible_with = REQUIRES_CUDA,
        **kwargs
    )

def gpu_test(name, srcs, deps, size):
    """A cc_test that needs a GPU; its cases are in //tools/release:gpu_tests too.

    Args:
      name: the target's name; that of the cases is <name>_cases.
      srcs: the cases.
      deps: libraries; GoogleTest is among them already.
      size: the test's.
    """
    cc_library(
        name = name + "_cases",
        testonly = True,
        srcs = srcs,
        alwayslink = True,
        target_compatible_with = REQUIRES_CUDA,
        visibility = ["//tools/release:__pkg__"],
        deps = deps + ["@com_google_googletest//:gtest"],
    )
    cc_test(
        name = name,
        size = size,
        tags = _GPU_TEST_TAGS,
        target_compatible_with = REQUIRES_CUDA,
        deps = [
            ":" + name + "_cases",
            "@com_google_googletest//:gtest_main",
        ],
    )

def gpu_benchmark(name, srcs, deps):
    """A benchmark that needs a GPU; it is in //tools/release:gpu_benchmarks too.

    Args:
      name: the target's name; that of the benchmarks' library is <name>_set.
      srcs: with a BenchmarkSet (cuda/testing/benchmark_set.h).
      deps: libraries; those of benchmarks are among them already.
    """
    cc_library(
        name = name + "_set",
        testonly = True,
        srcs = srcs,
        alwayslink = True,
        target_compatible_with = REQUIRES_CUDA,
        visibility = ["//tools/release:__pkg__"],
        deps = deps + [
            "//cuda/testing:benchmark_set",
            "@com_github_google_benchmark//:benchmark",
        ],
    )
    cc_binary(
        name = name,
        testonly = True,
        tags = [
            "benchmark",
            "gpu",
        ],
        target_compatible_with = REQUIRES_CUDA,
        deps = [
            ":" + name + "_set",
            "//cuda/testing:benchmark_main",
        ],
    )
