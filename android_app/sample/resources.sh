#!/usr/bin/env bash
# Compiles res/ and the manifest for the tests, into OUT: resources.ap_ and java/.../R.java.
#
#   bash resources.sh AAPT2 FRAMEWORK_RES_APK OUT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/src/main"
aapt2=$1 framework=$2 out=$3

if ! command -v "$aapt2" >/dev/null || [ ! -f "$framework" ]; then
    echo "error: the sample app needs aapt2 and Android's own resources: bash setup.sh apk" >&2
    exit 1
fi
rm -rf "$out"
mkdir -p "$out"
# The pseudo languages have each text marked, and one of them runs from right to left.
"$aapt2" compile --pseudo-localize --dir res -o "$out/compiled.zip"
# Debian's aapt2 is older than <queries>, and would refuse it. Robolectric reads the manifest itself.
"$aapt2" link -I "$framework" --manifest AndroidManifest.xml --java "$out/java" --min-sdk-version 27 \
    --target-sdk-version 35 --warn-manifest-validation -o "$out/resources.ap_" "$out/compiled.zip" 2>"$out/link.log" ||
    { cat "$out/link.log" >&2; exit 1; }
