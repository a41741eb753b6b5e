#!/bin/sh
# Installs the third-party clients that the live tests run against Atrium into .clients: two Python environments and one
# of Node. No part of the product. Quick when nothing has changed.
set -eu
venv=$1
cd "$(dirname "$0")/.."
lists=tests/live/clients

wanted=$(cat "$lists"/requirements*.txt "$lists"/package*.json scripts/setup_clients.sh | cksum)
stamp=.clients/setup-stamp
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi
mkdir -p .clients/node
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

try() { # a registry may fail once
    "$@" || { sleep 5; "$@"; } || { sleep 20; "$@"; }
}

install_python() {
    [ -x ".clients/$1/bin/python" ] || "$venv/bin/python" -m venv ".clients/$1"
    try ".clients/$1/bin/python" -m pip install --quiet --no-deps -r "$lists/$2"
}

install_node() {
    cp "$lists/package.json" "$lists/package-lock.json" .clients/node/
    cd .clients/node
    # Not "npm ci": it insists on the packages of every platform, and not all of them are published.
    try npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error
    node node_modules/opencode-ai/postinstall.mjs
    node node_modules/@anthropic-ai/claude-code/install.cjs
    cd ../..
}

install_python python requirements.txt
install_python python-openai2 requirements-openai2.txt
if ! command -v npm >/dev/null 2>&1 || ! node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)'; then
    echo "The tests of JavaScript clients need Node 20 or newer, with npm: they will fail without." >&2
    exit 0
fi
install_node
printf '%s' "$wanted" >"$stamp"
