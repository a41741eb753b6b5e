"""The third-party clients in .clients: which are there, in which version, and how one is run.

Each runs in a home of its own and is kept from everything but this machine. Knows nothing of what it should say.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

CLIENTS = Path(__file__).resolve().parents[3] / ".clients"
NODE = "node"
# Nothing listens there: whatever a client wants of the internet fails at once, in place of hanging.
CLOSED_PROXY = "http://127.0.0.1:9"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CONTINUE_TELEMETRY_ENABLED": "0",
    "DISABLE_AUTOUPDATER": "1",
    "DO_NOT_TRACK": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_PERMISSION": '{"bash": "ask", "edit": "ask", "webfetch": "ask"}',  # nobody is there to be asked
}


class Outcome(NamedTuple):
    """How a run ended."""

    returncode: int
    stdout: str  # and what went to stderr
    was_cut: bool  # as the time was up


def find_version(runtime: str, package: str) -> str:
    """The version that is installed in this environment of .clients."""
    hint = f"{package} is not in .clients/{runtime}: run scripts/setup_clients.sh .venv (Node's needs Node 20 and npm)"
    if runtime == NODE:
        description = CLIENTS / NODE / "node_modules" / package / "package.json"
        assert description.exists(), hint
        version: str = json.loads(description.read_text())["version"]
        return version
    folders = [str(path) for path in (CLIENTS / runtime).glob("lib/python*/site-packages")]
    found = list(importlib.metadata.distributions(name=package, path=folders))
    assert found, hint
    return found[0].version


def run_client(
    runtime: str,
    command: list[str],
    home: Path,
    *,
    text: str = "",
    until: str = "",
    timeout_s: float = 240,
    may_be_cut: bool = False,
) -> Outcome:
    """Run in this folder, its home, to the end, to the line with `until`, or until the time is up. Leaves no process.

    AssertionError when the time is up and it may not be cut.
    """
    if runtime == NODE:
        _link(home / "node_modules", CLIENTS / NODE / "node_modules")
    lines = []
    with subprocess.Popen(
        command, cwd=home, env=_make_environment(runtime, home), text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        stop = threading.Timer(timeout_s, _kill, [process])
        stop.start()
        try:
            process.stdin.write(text)
            process.stdin.close()
            for line in process.stdout:
                lines.append(line)
                if until and until in line:
                    break
            else:
                process.wait()
        finally:
            was_late = not stop.is_alive()
            stop.cancel()
            stop.join()
            _kill(process)
    output = "".join(lines)
    assert may_be_cut or not was_late, f"{command} has not ended after {timeout_s} s: {output}"
    return Outcome(process.returncode, output, was_late)


def _kill(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.symlink_to(target)


def _make_environment(runtime: str, home: Path) -> dict[str, str]:
    programs = CLIENTS / (Path(NODE, "node_modules", ".bin") if runtime == NODE else Path(runtime, "bin"))
    node = Path(shutil.which("node") or "node").parent
    return QUIET | {
        "PATH": f"{programs}:{node}:{os.environ['PATH']}",
        "HOME": str(home),
        "HTTP_PROXY": CLOSED_PROXY,
        "HTTPS_PROXY": CLOSED_PROXY,
        "NO_PROXY": "127.0.0.1,localhost",
        "TERM": "dumb",
        "COLUMNS": "100",
        "LANG": "C.UTF-8",
    }
