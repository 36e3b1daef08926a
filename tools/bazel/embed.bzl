"""embedded_text: text files as string constants, so that a binary needs no files.

embedded_text(name = "x", function = "F", srcs = [...]) is a cc_library whose
generated header x.h declares

    // Base name without extension, and content; in the order of srcs.
    absl::Span<const std::pair<absl::string_view, absl::string_view>> F();
"""

load("@rules_cc//cc:defs.bzl", "cc_library")

_HEADER = """\
#ifndef {guard}
#define {guard}

#include <utility>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace strata {{

// Base name without extension, and content; in the order of srcs.
absl::Span<const std::pair<absl::string_view, absl::string_view>> {function}();

}}  // namespace strata

#endif  // {guard}
"""

# Every byte is an octal escape, so that no content can end a literal.
_WRITE_SOURCE = """
set -eu
out=$1 header=$2 function=$3
shift 3
pair='std::pair<absl::string_view, absl::string_view>'
{
  echo "#include \\"$header\\""
  echo "namespace strata {"
  echo "absl::Span<const $pair> $function() {"
  echo "  static constexpr $pair kTexts[] = {"
  for src; do
    name=${src##*/}
    echo "      {\\"${name%.*}\\", {"
    od -An -v -to1 "$src" | sed 's/ /\\\\/g; s/.*/          "&"/'
    echo "          \\"\\", $(wc -c < "$src")}},"
  done
  echo "  };"
  echo "  return kTexts;"
  echo "}"
  echo "}  // namespace strata"
} > "$out"
"""

def _embedded_source_impl(ctx):
    header = ctx.outputs.hdr.short_path
    ctx.actions.write(ctx.outputs.hdr, _HEADER.format(
        function = ctx.attr.function,
        guard = header.upper().replace("/", "_").replace(".", "_") + "_",
    ))
    ctx.actions.run_shell(
        arguments = [ctx.outputs.src.path, header, ctx.attr.function] +
                    [src.path for src in ctx.files.srcs],
        command = _WRITE_SOURCE,
        inputs = ctx.files.srcs,
        mnemonic = "EmbedText",
        outputs = [ctx.outputs.src],
    )

_embedded_source = rule(
    implementation = _embedded_source_impl,
    attrs = {
        "function": attr.string(mandatory = True),
        "hdr": attr.output(mandatory = True),
        "src": attr.output(mandatory = True),
        "srcs": attr.label_list(allow_files = True, mandatory = True),
    },
)

def embedded_text(name, srcs, function, **kwargs):
    """A cc_library with the texts of `srcs`.

    Args:
      name: the target's name, and the header's without ".h".
      srcs: the files.
      function: the name of the function that returns them, in strata.
      **kwargs: the cc_library's other attributes.
    """
    _embedded_source(
        name = name + "_source",
        srcs = srcs,
        src = name + ".cc",
        function = function,
        hdr = name + ".h",
    )
    cc_library(
        name = name,
        srcs = [name + ".cc"],
        hdrs = [name + ".h"],
        deps = [
            "@com_google_absl//absl/strings",
            "@com_google_absl//absl/types:span",
        ],
        **kwargs
    )
