"""The CUDA toolkit as a repository that loads even where there is no toolkit.

Without --config=cuda nothing is built from it, but Bazel still resolves the
labels of the targets that it then skips.
"""

def _cuda_repository_impl(ctx):
    for directory in ["include", "lib"]:
        toolkit = ctx.path(ctx.attr.path + "/" + directory)
        if toolkit.exists:
            ctx.symlink(toolkit, directory)
    ctx.symlink(ctx.attr.build_file, "BUILD")

cuda_repository = repository_rule(
    implementation = _cuda_repository_impl,
    local = True,
    attrs = {
        "build_file": attr.label(allow_single_file = True, mandatory = True),
        "path": attr.string(mandatory = True),
    },
)
