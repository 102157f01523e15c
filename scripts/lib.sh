# Shared by scripts/demo and scripts/test: find a Python, make `.venv`, put it first in PATH.
#
# Sourced by POSIX sh with the repository's root as working directory. All of the set-up itself is
# in lib_environment.py; this part only finds an interpreter that can run it.

fail() { # fail CODE WHAT WHY FIX
    printf 'error: %s\n  why: %s\n  fix: %s\n' "$2" "$3" "$4" >&2
    exit "$1"
}

# Print the first interpreter that is new enough and can make virtual environments.
# PYTHON names another one. The oldest supported version comes first: it is the one CI runs.
find_python() {
    without_venv=
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -n "$without_venv" ]; then
        fail 3 "$without_venv cannot make virtual environments" \
            "its ensurepip module is missing; Debian and Ubuntu pack it apart" \
            "sudo apt-get install -y $(basename "$without_venv")-venv"
    fi
    fail 3 "no Python 3.11 or newer" \
        "looked for ${PYTHON:-python3.11, python3.12, python3.13 and python3} in PATH" \
        "install one (apt-get install python3.11 python3.11-venv, brew install python@3.12) or name it: PYTHON=/path/to/python $0"
}

# make_environment [--libp2p]: `.venv` as constraints.txt has it, first in PATH.
make_environment() {
    python=$(find_python) || exit
    "$python" scripts/lib_environment.py "$@" || exit
    PATH=$PWD/.venv/bin:$PATH
    export PATH
    unset PYTHONHOME PYTHONPATH
}
