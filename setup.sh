#!/usr/bin/env bash
# What `make setup` and `make test` need of this machine. A repeated run changes nothing that is right already.
#
#   bash setup.sh            .venv with all that pyproject.toml names, in the versions of constraints.txt (PYTHON=path)
#   bash setup.sh browser    Debian's Chromium, which tests look at pages in, where it is missing and can be installed
#   bash setup.sh java       Debian's JDK 17 and Maven, which build the Kotlin library, likewise
#   bash setup.sh apk        Debian's tools for an APK, beside D8 and R8 of Maven Central, likewise
#   bash setup.sh harnesses  lmms-eval and VLMEvalKit, which tests run a bundle in, into build/harnesses (450 MB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# = 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install_package() {
    printf "Installing Debian's %s\n" "$*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y -o DPkg::Lock::Timeout=900 --no-install-recommends "$@" >/dev/null
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The first Python that is new enough, or nothing.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        if new_enough "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
}

# Prints a Python of 3.11 or newer that can make an environment; what it installs for that is said on stderr.
python_with_venv() {
    local python missing=python3-venv
    python=$(find_python)
    if [ -n "$python" ]; then
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s' "$python"
            return
        fi
        missing=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    fi
    if [ -n "${PYTHON:-}" ] || ! can_install; then
        fail "${PYTHON:-this machine} has no Python 3.11 or newer with the venv module." \
            "On Debian or Ubuntu: sudo apt-get install $missing. Or name another: make PYTHON=/path/to/python3"
    fi
    install_package "$missing" >&2
    python=${python:-python3}
    new_enough "$python" || fail "$("$python" --version) is too old: make PYTHON=/path/to/python3 (3.11 or newer)"
    printf '%s' "$python"
}

environment() {
    local python
    if ! .venv/bin/uv --version >/dev/null 2>&1; then
        python=$(python_with_venv)
        printf 'Making .venv with %s\n' "$("$python" --version)"
        "$python" -m venv --clear .venv
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
    fi
    echo "Installing what pyproject.toml names, in the versions of constraints.txt (the first time some minutes and 5 GB)"
    local quiet=--quiet
    [ ! -t 2 ] || quiet=
    .venv/bin/uv pip install $quiet --python .venv/bin/python --constraint constraints.txt \
        --build-constraint constraints.txt --editable '.[export,executorch,litert,qnn,train,dev,docs]'
    touch .venv/.ready
}

browser() {
    if [ ! -e /usr/bin/chromium ] && can_install; then
        install_package chromium || echo "It could not be installed: what needs a browser is not tested" >&2
    fi
}

java() {
    if { ! command -v javac || ! command -v mvn; } >/dev/null && can_install; then
        install_package openjdk-17-jdk-headless maven || echo "They could not be installed: the Kotlin library is not built" >&2
    fi
}

apk() {
    local program missing=
    for program in aapt2 zipalign apksigner dexdump enjarify; do
        command -v "$program" >/dev/null || missing=1
    done
    [ -e /usr/share/android-framework-res/framework-res.apk ] || missing=1
    if [ -n "$missing" ] && can_install; then
        install_package aapt android-framework-res zipalign apksigner dexdump enjarify ||
            echo "They could not be installed: no APK is built" >&2
    fi
}

# Beside the environment: they ask for other versions, and for much that a bundle's questions never import.
harnesses() {
    local wanted=tests/support/harnesses.txt target=build/harnesses
    if ! cmp -s "$wanted" "$target/packages.txt"; then
        rm -rf "$target" "$target.partial"
        if .venv/bin/uv pip install --quiet --python .venv/bin/python --target "$target.partial" --no-deps --requirements "$wanted"; then
            cp "$wanted" "$target.partial/packages.txt"
            mv "$target.partial" "$target"
        else
            echo "They could not be installed: a bundle is not tested in them" >&2
        fi
    fi
}

case "${1:-}" in
    "") environment ;;
    browser) browser ;;
    java) java ;;
    apk) apk ;;
    harnesses) harnesses ;;
    *) fail "setup.sh knows nothing but browser, java, apk and harnesses, not $1" ;;
esac
