"""Repositories made of libraries that the system's package manager installed.

pkg_config_repository reads .pc files and writes one cc_library for each module
it reaches: `Requires` becomes deps, `Libs` becomes the static archive. There are
no headers to declare: they lie under /usr/include, which the compiler searches
anyway and which Bazel treats like the C library's own.

`targets` then gives the modules the labels they have upstream, so that a BUILD
file reads the same whether a library comes from Debian or is built from source.
"""

_LIBDIR = "/usr/lib/x86_64-linux-gnu"

# Where a program finds the shared libraries that a release or a bundle carries
# for it.
_CARRIED = "-Wl,-rpath,$$ORIGIN/lib"

# And where those that it carries find what they need in turn: only the older
# tag holds for them too.
_CARRIED_BY_CARRIED = "-Wl,--disable-new-dtags"

# What the compiler finds by itself.
_TOOLCHAIN_LIBS = ["-latomic", "-ldl", "-lm", "-lpthread", "-lrt"]

# Abseil names libatomic, which x86-64 never calls and which not every system has.
_IF_NEEDED = "-Wl,--push-state,--as-needed,%s,--pop-state"

_LIBRARY = """
cc_library(
    name = "{name}",
    srcs = {srcs},
    linkopts = {linkopts},
    deps = {deps},
)
"""

_ALIAS = """
alias(
    name = "{name}",
    actual = "//pc:{actual}",
)
"""

_PUBLIC = "package(default_visibility = [\"//visibility:public\"])\n"

def _parse(text):
    """Returns the libs (as -l flags) and the required modules of a .pc file."""
    fields = {}
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            fields[key] = value.strip()
    libs = (fields.get("Libs", "") + " " + fields.get("Libs.private", "")).split(" ")
    requires = fields.get("Requires", "").split(",")
    return struct(
        libs = [lib for lib in libs if lib.startswith("-l")],
        requires = [r.strip().split(" ")[0] for r in requires if r.strip()],
        needs_others = bool(fields.get("Requires.private")),
    )

def _link_file(ctx, lib):
    """Links the file behind `-lfoo` into the repository; returns its path there."""
    for suffix in [".a", ".so"]:
        file = "lib" + lib[len("-l"):] + suffix
        if ctx.path(_LIBDIR + "/" + file).exists:
            ctx.symlink(_LIBDIR + "/" + file, "pc/" + file)
            return file
    fail("{} is not in {}".format(lib, _LIBDIR))

def _pkg_config_repository_impl(ctx):
    libraries = {}  # By module name.
    todo = ctx.attr.targets.values()
    for _ in range(10000):  # Starlark has no `while`; absl needs about 150 turns.
        if not todo:
            break
        module = todo.pop()
        if module in libraries:
            continue
        pc = _parse(ctx.read("{}/pkgconfig/{}.pc".format(_LIBDIR, module)))
        srcs = [_link_file(ctx, lib) for lib in pc.libs if lib not in _TOOLCHAIN_LIBS]
        linkopts = [_IF_NEEDED % lib for lib in pc.libs if lib in _TOOLCHAIN_LIBS]
        if [src for src in srcs if src.endswith(".so")]:
            linkopts.append(_CARRIED)
            if pc.needs_others:
                linkopts.append(_CARRIED_BY_CARRIED)
        libraries[module] = _LIBRARY.format(
            name = module,
            srcs = srcs,
            linkopts = linkopts,
            deps = [":" + name for name in pc.requires],
        )
        todo.extend(pc.requires)

    packages = {"pc": [_PUBLIC] + [libraries[module] for module in sorted(libraries)]}
    for label, module in ctx.attr.targets.items():
        package, colon, name = label.rpartition(":")
        if not colon:  # "absl/status" is short for "absl/status:status".
            package, name = label, label.split("/")[-1]
        packages.setdefault(package, [_PUBLIC]).append(
            _ALIAS.format(actual = module, name = name),
        )
    for package, text in packages.items():
        ctx.file(package + "/BUILD" if package else "BUILD", "".join(text))

pkg_config_repository = repository_rule(
    implementation = _pkg_config_repository_impl,
    local = True,
    attrs = {
        "targets": attr.string_dict(
            doc = "Upstream label, without the repository, to .pc module.",
            mandatory = True,
        ),
    },
)
