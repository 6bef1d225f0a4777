#!/usr/bin/env bash
# Installs Debian's Chromium for the test that looks at the HTML report, where that is possible without asking anybody:
# on a Debian system, as root. Never fails: without a browser that one test is skipped and says so.
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "browser: no Chromium, and no way to install it here (that takes apt-get and root): its test will be skipped" >&2
    exit 0
fi
echo "browser: installing Chromium with apt-get, about 100 MB" >&2
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
if { timeout 120 apt-get update -q && timeout 300 apt-get install -qy --no-install-recommends chromium; } >"$log" 2>&1 </dev/null
then
    rm -f "$log"
else
    echo "browser: apt-get could not install Chromium ($log): its test will be skipped" >&2
fi
exit 0
