"""The part of rules_cc that Bazel 4.2 and this repository load.

Bazel 4.2 still carries the C++ rules natively; its own tools load them through
@rules_cc, which it would download. These aliases keep the labels and drop the
download. (Debian's bazel-rules-cc 0.0.4 needs a newer Bazel than Debian ships.)
"""

cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_proto_library = native.cc_proto_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
