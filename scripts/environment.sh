# shellcheck shell=bash
# To be sourced. `environment EXTRA` makes sure that the project is installed in a virtual environment of its own.
#
#   environment ""      what the command needs
#   environment test    and what the tests need
#
# Afterwards the environment's programs come first in PATH, so that plain `python` and `hlfeat` mean its own. The
# environment is .venv in the checkout; HLFEAT_VENV names another folder. The installation is editable: a change of the
# source needs no new one. What was installed is remembered in a stamp, so that the second time is quick.

environment() {
    local extra="$1" root venv wanted
    root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)" || return
    venv="${HLFEAT_VENV:-$root/.venv}"
    [[ "$venv" == /* ]] || venv="$PWD/$venv"
    wanted="$(_stamp "$root")" || return
    if ! _installed "$venv" "$extra" "$wanted"; then
        _make_venv "$venv" || return
        _install "$root" "$venv" "$extra" || return
        printf '%s\n' "$wanted" > "$venv/$(_stamp_name "$extra")" || return
    fi
    export PATH="$venv/bin:$PATH"
}

# What an installation depends on. The checkout's path is part of it because an editable installation points there.
_stamp() {
    { cat -- "$1/pyproject.toml" "$1/constraints.txt" && printf '%s\n' "$1"; } | cksum
}

_stamp_name() {
    printf 'hlfeat-installed%s' "${1:+-$1}"
}

# Whether the stamp of this extra matches. The one of the tests will do for the command alone, not the other way round.
_installed() {
    local venv="$1" extra="$2" wanted="$3" name
    for name in "$(_stamp_name "$extra")" "$(_stamp_name test)"; do
        if [[ -x "$venv/bin/python" && -f "$venv/$name" && "$(< "$venv/$name")" == "$wanted" ]]; then
            return 0
        fi
    done
    return 1
}

# An environment that was left half-made (no pip in it) is completed.
_make_venv() {
    local venv="$1" python
    if "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
        return 0
    fi
    python="$(_find_python)" || return
    printf 'making the virtual environment %s\n' "$venv" >&2
    "$python" -m venv -- "$venv" || { printf 'error: %s could not be made\n' "$venv" >&2; return 1; }
}

# The first Python that is new enough and can make environments (Debian and Ubuntu ship one that cannot).
_find_python() {
    local python unable=''
    for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' > /dev/null 2>&1; then
            continue
        elif ! "$python" -c 'import venv, ensurepip' > /dev/null 2>&1; then
            unable="$python"
        else
            printf '%s\n' "$python"
            return 0
        fi
    done
    if [[ -n "$unable" ]]; then
        printf 'error: %s cannot make virtual environments: install python3-venv, or set HLFEAT_VENV to one\n' "$unable" >&2
    else
        printf 'error: no Python 3.10 or newer found in PATH (tried python3, python3.10 to python3.14, python)\n' >&2
    fi
    return 1
}

# The stamps go first: an installation that fails or is interrupted leaves none.
_install() {
    local root="$1" venv="$2" extra="$3"
    rm -f -- "$venv/$(_stamp_name '')" "$venv/$(_stamp_name test)" || return
    printf 'installing into %s: takes a few minutes the first time (PyTorch is large)\n' "${venv#"$root/"}" >&2
    (
        cd -- "$root" || exit
        export PIP_DISABLE_PIP_VERSION_CHECK=1
        # what is imported is compiled then, which is a part of what there is
        # editable installations without a setup.py came with pip 21.3; the first releases of Python 3.10 have 21.2
        "$venv/bin/python" -m pip install -q 'pip>=21.3' &&
            "$venv/bin/python" -m pip install -q --no-compile -c constraints.txt -e ".${extra:+[$extra]}"
    ) || { printf 'error: the installation failed; what pip said is above\n' >&2; return 1; }
}
