#!/bin/bash
# Unpacks the release elsewhere and checks that it stands on its own.
set -euo pipefail

fail() { echo "$*" >&2; exit 1; }

tarball=$1
name=$(basename "$tarball" .tar.gz)
tar -C "$TEST_TMPDIR" -xzf "$tarball"
cd "$TEST_TMPDIR/$name"

for file in strata LICENSE README.txt THIRD_PARTY_LICENSES; do
  [[ -s $file ]] || fail "the tarball lacks $file"
done
grep -q "$name" README.txt || fail "README.txt does not name $name"
for library in libabsl-dev libopenblas-serial-dev libprotobuf-dev; do
  grep -q "^$library [0-9]" THIRD_PARTY_LICENSES || fail "no licence of $library"
done
grep -q 'TERMS AND CONDITIONS FOR USE' THIRD_PARTY_LICENSES || fail "no text of the Apache licence"

# What comes neither from lib/ nor with every Linux is missing elsewhere.
foreign=$(ldd "$PWD/strata" | grep '=>' | grep -vF "=> $PWD/lib/" |
  grep -vE 'lib(c|m|stdc\+\+|gcc_s|dl|pthread|rt)\.so' || true)
[[ -z $foreign ]] || fail "the binary needs"$'\n'"$foreign"
[[ -z $(nm strata 2>/dev/null) ]] || fail "the binary is not stripped"

version=${name#strata-}
version=${version%-linux-x86_64}
output=$(./strata --version)
[[ $output == *"$version"* ]] || fail "--version prints '$output', which lacks $version"
