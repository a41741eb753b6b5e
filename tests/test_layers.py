"""Who may import whom: the contracts of pyproject.toml, checked on the real import graph."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_import_contracts_hold() -> None:
    # In a process of its own: it analyses modules by importing their packages afresh.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KEPT" in done.stdout


def test_the_worker_s_server_needs_no_torch() -> None:
    # It listens, and tells how far loading is, before the seconds that this import takes.
    code = "import sys, gpu_worker.server.process; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
