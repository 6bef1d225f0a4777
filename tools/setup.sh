#!/usr/bin/env bash
# Makes .venv: Python 3.10, Lava, and this package (editable) with all its extras, at the versions of constraints.txt.
#
#   tools/setup.sh        (or: make setup)
#
# Run it as often as you like. When nothing changed it takes a moment; an environment that was interrupted, damaged or
# moved is repaired, and what pip has fetched already is not fetched again where pip keeps its cache.
# Exit codes: 0 done, 1 the installation failed, 6 no Python 3.10, 130 interrupted. pip follows your own configuration.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
venv=$root/.venv
python=$venv/bin/python
stamp=$venv/kirin-lava.stamp
log=$venv/setup.log
needed_gb=9 # the environment, and its largest wheel once more while it is unpacked
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 # a pip set to --user by default cannot install into an environment

say() { echo "setup: $*" >&2; }
fail() { local code=$1; shift; echo "kirin-lava: $*" >&2; exit "$code"; }

# What the environment is made from. It names the folder too: an environment does not survive being moved.
fingerprint() {
    local sum=sha256sum
    command -v sha256sum >/dev/null || sum="shasum -a 256"
    { echo "$root"; cat pyproject.toml constraints.txt; } | $sum | cut -c 1-64
}

# The main packages are where they should be; what they contain was checked when the stamp was written.
healthy() {
    "$python" -I -c '
import sys
from importlib.util import find_spec
sys.exit(sys.version_info[:2] != (3, 10) or not all(map(find_spec, sys.argv[1:])))
' kirin_lava torch transformers h5py lava pytest >/dev/null 2>&1
}

[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && healthy && exit 0

# One set-up at a time: two pips in one environment spoil it. The lock is on this file and goes with its last holder, pip
# included, however that ends. (No flock, no lock: macOS.)
exec 9<tools/setup.sh
if command -v flock >/dev/null; then
    held=0
    flock -n -E 75 9 || held=$?
    [ $held != 75 ] || fail 1 "another set-up is at work in $root: wait for it."
fi

pip_pid=""
interrupted() {
    if [ -n "$pip_pid" ]; then
        kill "$pip_pid" 2>/dev/null || true
        wait "$pip_pid" 2>/dev/null || true
    fi
    [ ! -t 2 ] || echo >&2
    fail 130 "interrupted; run it again to go on from here."
}
trap interrupted INT TERM HUP

elapsed() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); }

# What pip is at: the last line of its log that says so, without paths.
activity() {
    grep -E '^ *(Collecting|Downloading|Using cached|Processing|Building wheel|Installing collected)' "$log" | tail -n 1 |
        sed -E -e 's/^ *//' -e 's|[^ ]*/||' -e 's/-(cp|py)[0-9][^ ]*//' -e 's/(Installing) collected.*/\1 the packages/'
}

# install ARGUMENT...: pip install in the background, telling how it goes: one line kept up to date on a terminal, and
# elsewhere a line every half minute.
install() {
    local said=$SECONDS status=0
    "$python" -m pip install --no-input --progress-bar off -c constraints.txt "$@" >>"$log" 2>&1 </dev/null &
    pip_pid=$!
    while kill -0 "$pip_pid" 2>/dev/null; do
        sleep 0.3
        if [ -t 2 ] && [ $said != $SECONDS ]; then
            said=$SECONDS
            printf '\r\033[K%.72s' "setup: $(elapsed)  $(activity || true)" >&2
        elif [ $((SECONDS - said)) -ge 30 ]; then
            said=$SECONDS
            say "$(elapsed)  $(activity || true)"
        fi
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
    wait "$pip_pid" || status=$?
    pip_pid=""
    [ $status != 0 ] || return 0
    grep -vE '^WARNING|^ *$' "$log" | tail -n 10 >&2
    fail 1 "pip could not finish (its whole log: $log); run it again to go on from here."
}

# 1. A Python 3.10 in .venv that runs, at the place its scripts were written for.
if "$python" -I -c '' >/dev/null 2>&1; then
    version=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ "$version" = 3.10 ] ||
        fail 6 "$venv is Python $version, and Lava needs 3.10: move it away or delete it, and run this again."
    if [ -e "$venv/bin/pip" ] && ! grep -qF "$python" "$venv/bin/pip"; then stale="was moved here"; else stale=""; fi
elif [ -e "$venv" ]; then
    stale="does not run"
else
    stale="is not there yet"
fi
if [ -n "$stale" ]; then
    base=$(tools/find_python.sh) || exit $?
    say "Python 3.10 is $base"
    free_gb=$(($(df -Pk "$root" | awk 'NR == 2 {print $4}') / 1000000))
    [ "$free_gb" -ge "$needed_gb" ] || fail 1 "only $free_gb GB free in $root, and the environment needs $needed_gb."
    say "$venv $stale: making it"
    "$base" -m venv --clear "$venv" >&2 || fail 1 "$base could not make $venv."
else
    say "going on with $venv"
fi
rm -f "$stamp"
: >"$log"

# 2. What an interrupted pip left: it takes a package for installed as soon as the folder with its metadata is there.
# A package that misses files is struck off the books, and so installed again.
"$python" -I - >&2 <<'EOF'
import shutil, sysconfig
from pathlib import Path

site = Path(sysconfig.get_path("purelib"))
for info in site.glob("*.dist-info"):
    record = info / "RECORD"
    lines = record.read_text(errors="replace").splitlines() if record.is_file() else []
    files = [line.rsplit(",", 2)[0].strip('"') for line in lines]
    whole = any(name.endswith(".dist-info/INSTALLER") for name in files)
    if not whole or any(not name.endswith(".pyc") and not (site / name).exists() for name in files):
        print(f"setup: {info.name[:-len('.dist-info')]} is incomplete: installing it again", flush=True)
        shutil.rmtree(info)
for leftover in site.glob("~*"):
    shutil.rmtree(leftover, ignore_errors=True)
EOF
"$python" -I -m pip --version >/dev/null 2>&1 || "$python" -I -m ensurepip >>"$log" 2>&1 ||
    fail 1 "$venv has no pip and cannot get one ($log): delete it, and run this again."

# 3. The packages. The build backend comes first and pip uses it as installed, so that setting up again after an edit of
# pyproject.toml needs no network.
say "installing Lava, PyTorch (its CUDA build) and the rest; the first time about 3 GB to fetch, 6.5 GB on disk, minutes"
install hatchling wheel
install --no-build-isolation -e '.[dev,report,nir,eval,docs]'
healthy || fail 1 "the packages are installed but not found (pip's log: $log)."

fingerprint >"$stamp"
say "done in $(elapsed): $(du -sh "$venv" 2>/dev/null | cut -f 1) in $venv"
