#!/usr/bin/env bash
# Prints the path of a Python 3.10 that really runs; what it tried and why it was passed over goes to stderr.
#
#   tools/find_python.sh            searches: $KIRIN_PYTHON, PATH, pyenv, uv, conda, mise, asdf, the usual system folders
#
# A name on PATH proves nothing: a version manager's shim stands there for versions that are not installed and fails only
# when called, and a distribution may ship Python without venv. So every candidate is called, and must be 3.10 with venv
# and ensurepip. Exit code 6 and one sentence where there is none.
set -u

passed_over=""

# runs PATH: prints the interpreter behind PATH (not a shim, not a virtual environment); 1 and a reason in $why otherwise.
runs() {
    local answer
    answer=$("$1" -I -c '
import os, sys
try:
    import ensurepip, venv
    lacks = ""
except ImportError as error:
    lacks = error.name
base = os.path.join(sys.base_prefix, "bin", "python%d.%d" % sys.version_info[:2])
print("%d.%d" % sys.version_info[:2], lacks or "-", base if os.access(base, os.X_OK) else sys.executable)
' 2>/dev/null </dev/null) || { why="does not run"; return 1; }
    case $answer in
        "3.10 - "/*) found=${answer#3.10 - } ;;
        "3.10 "*) why="has no ${answer#3.10 }"; why="${why%% /*} (on Debian: apt-get install python3.10-venv)"; return 1 ;;
        *) why="is Python ${answer%% *}"; return 1 ;;
    esac
}

# try PATH...: ends the script with the first that runs. What is simply not there is not worth a word.
try() {
    local candidate
    for candidate in "$@"; do
        [ -f "$candidate" ] && [ -x "$candidate" ] || continue
        if runs "$candidate"; then
            [ -z "$passed_over" ] || echo "passed over: $passed_over" >&2
            echo "$found"
            exit 0
        fi
        case $why in "is Python "*) continue ;; esac
        passed_over="${passed_over:+$passed_over, }$candidate $why"
    done
}

# newest DIR PATTERN: the matches of PATTERN below DIR, the highest version first, one a line.
newest() {
    local path
    for path in "$1"/$2; do [ -e "$path" ] && echo "$path"; done | sort -rV
}

# try_all: try on every line of stdin.
try_all() {
    local line lines=()
    while IFS= read -r line; do lines+=("$line"); done
    [ ${#lines[@]} -eq 0 ] || try "${lines[@]}"
}

if [ -n "${KIRIN_PYTHON:-}" ]; then
    wanted=$(type -P "$KIRIN_PYTHON")
    if [ -z "$wanted" ]; then why="is not a program"; elif runs "$wanted"; then echo "$found"; exit 0; fi
    echo "kirin-lava: KIRIN_PYTHON=$KIRIN_PYTHON $why; Lava needs Python 3.10: point it to one, or unset it to search." >&2
    exit 6
fi

home=${HOME:-/nonexistent}
try_all < <(type -aP python3.10 python3 python)
try_all < <(newest "${PYENV_ROOT:-$home/.pyenv}/versions" '3.10*/bin/python')

uv=$(type -P uv || type -P "$home/.local/bin/uv" || type -P "$home/.cargo/bin/uv")
try_all < <([ -z "$uv" ] || "$uv" python find --no-python-downloads 3.10 2>/dev/null </dev/null)
try_all < <(newest "${UV_PYTHON_INSTALL_DIR:-$home/.local/share/uv/python}" 'cpython-3.10*/bin/python3.10')
try_all < <(newest "${MISE_DATA_DIR:-$home/.local/share/mise}/installs/python" '3.10*/bin/python')
try_all < <(newest "${ASDF_DATA_DIR:-$home/.asdf}/installs/python" '3.10*/bin/python')
for conda in "${CONDA_PREFIX:-}" "${MAMBA_ROOT_PREFIX:-}" "$home"/{miniconda3,anaconda3,miniforge3,mambaforge,micromamba}; do
    [ -n "$conda" ] && try_all < <(newest "$conda" 'bin/python'; newest "$conda" 'envs/*/bin/python')
done
try /opt/homebrew/bin/python3.10 /Library/Frameworks/Python.framework/Versions/3.10/bin/python3.10

if [ -n "$uv" ]; then
    echo "no Python 3.10 on this machine yet: asking uv for one" >&2
    "$uv" python install 3.10 >&2 </dev/null &&
        try_all < <("$uv" python find --no-python-downloads 3.10 2>/dev/null </dev/null)
fi

echo "kirin-lava: no Python 3.10 that runs was found${passed_over:+ ($passed_over)}; Lava needs exactly that version:" \
    "install it, for example with 'pyenv install 3.10' or 'uv python install 3.10', or name one in KIRIN_PYTHON." >&2
exit 6
