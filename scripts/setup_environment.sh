#!/bin/sh
# Makes the virtual environment and installs everything, tests' needs included. Quick when nothing has changed: the stamp
# holds a hash of what was installed.
set -eu
venv=$1
cd "$(dirname "$0")/.."

find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Atrium needs Python 3.11 or newer with venv (on Debian: apt-get install python3-venv), or PYTHON=/path/to/it." >&2
    return 1
}

wanted=$(cat requirements.txt requirements-dev.txt scripts/setup_environment.sh scripts/setup_browser.sh | cksum)
stamp=$venv/.setup-stamp
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

[ -x "$venv/bin/python" ] || "$(find_python)" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# torch first, by its pin alone: what other packages ask of it must find it there, never replace it.
"$venv/bin/python" -m pip install --quiet "$(grep '^torch==' requirements.txt)"
"$venv/bin/python" -m pip install --quiet -r requirements-dev.txt
scripts/setup_browser.sh "$venv"
printf '%s' "$wanted" >"$stamp"
