# What the scripts beside this file share; to be sourced, not run. They set `set -euo pipefail` themselves.
# PYTHON names another interpreter than python3.
# shellcheck shell=bash disable=SC2034  # the variables are for the scripts that source this

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
venv=$root/.venv

fail() {
    printf 'ops/%s: %s\n' "$(basename -- "$0")" "$1" >&2
    exit 3
}

# Install Debian packages where that is possible: as root, with apt-get. Output goes nowhere; the exit code says it all.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    } >/dev/null 2>&1
}

make_venv() {
    "$python" -m venv "$venv" >/dev/null 2>&1 && return
    rm -rf "$venv"
    # Debian and Ubuntu keep venv in a package of its own.
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if apt_install "python$version-venv" || apt_install python3-venv; then
        "$python" -m venv "$venv" >/dev/null 2>&1 && return
        rm -rf "$venv"
    fi
    fail "cannot make $venv: '$python -m venv' fails; install it (Debian, Ubuntu: apt-get install python3-venv)"
}

# install_project PURPOSE [EXTRA]: .venv with the project, and with what its optional dependencies EXTRA name.
install_project() {
    local stamp=$venv/.installed-for-$1 extra=${2:+[$2]} wanted lock
    # What was installed is known by the contents of pyproject.toml and by where the checkout is, not by dates.
    wanted=$(printf '%s\n' "$root"; cat -- "$root/pyproject.toml")
    if [ -x "$venv/bin/stampede" ] && [ -f "$stamp" ] && [ "$(cat -- "$stamp")" = "$wanted" ]; then
        return
    fi
    # Two scripts at the same time must not install into one .venv at once.
    exec {lock}<"$root"
    flock "$lock"
    # An interrupted first start leaves a .venv without pip.
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        command -v "$python" >/dev/null || fail "$python not found; Python 3.11 or newer is needed"
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            fail "$("$python" --version 2>&1) is too old; Python 3.11 or newer is needed (PYTHON names another one)"
        make_venv
    fi
    "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$venv/bin/python" --version 2>&1) in $venv is too old; remove it and start again"
    printf 'ops/%s: installing into %s; the first time takes a little while\n' "$(basename -- "$0")" "$venv" >&2
    # Output goes to stderr: stdout belongs to what the script runs.
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -e "$root$extra" >&2 ||
        fail "the installation failed; pip says why above"
    printf '%s\n' "$wanted" >"$stamp"
    exec {lock}<&-
}
