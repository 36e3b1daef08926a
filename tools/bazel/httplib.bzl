"""HTTPLIB_DEFINES: local_defines of whatever includes httplib.h."""

# As Debian's library is built; httplib.h lays its classes out by them.
HTTPLIB_DEFINES = [
    "CPPHTTPLIB_BROTLI_SUPPORT",
    "CPPHTTPLIB_OPENSSL_SUPPORT",
    "CPPHTTPLIB_ZLIB_SUPPORT",
]
