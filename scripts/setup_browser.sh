#!/bin/sh
# A Chromium for the browser tests: the one on PATH, else the system's package (as root), else playwright's own.
set -eu
venv=$1
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then
        exit 0
    fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    if apt-get update -q >/dev/null && apt-get install -yq chromium >/dev/null; then
        exit 0
    fi
fi
if ! "$venv/bin/python" -m playwright install chromium; then
    # Serving needs no browser: the tests that do will say so.
    echo "No browser could be installed; the browser tests need chromium on PATH." >&2
fi
