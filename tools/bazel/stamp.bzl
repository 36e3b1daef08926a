"""stamped_source: a source file with the commit filled in.

Reads the keys that tools/bazel/workspace_status prints. A commit changes the
output, hence relinks what depends on it: let only final binaries do so.
"""

def _stamped_source_impl(ctx):
    ctx.actions.run_shell(
        arguments = [ctx.info_file.path, ctx.file.template.path, ctx.outputs.out.path],
        command = """
            commit=$(sed -n 's/^STABLE_GIT_COMMIT //p' "$1")
            sed "s/@GIT_COMMIT@/${commit:-unknown}/" "$2" > "$3"
        """,
        inputs = [ctx.info_file, ctx.file.template],
        mnemonic = "Stamp",
        outputs = [ctx.outputs.out],
    )

stamped_source = rule(
    implementation = _stamped_source_impl,
    attrs = {
        "out": attr.output(mandatory = True),
        "template": attr.label(allow_single_file = True, mandatory = True),
    },
)
