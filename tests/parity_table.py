"""The table at the end of a test run: every architecture, how it is served, and whether its answers were exact there.

Tests say what they compare with `record_parity`, before they compare; the verdict is how they ended. Works with
workers of xdist too, whose reports bring along what was recorded.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.summary_table import write_table

_PROPERTY = "parity"
GREEDY, SEEDED = "greedy = generate", "seeded = alone"
_TRAFFIC = ("preemptions", "cached tokens", "cut prompts")

RecordProperty = Callable[[str, Any], None]


def record_parity(record_property: RecordProperty, architecture: str, path: str, check: str) -> None:
    """This test compares answers of the architecture, served on this path."""
    record_property(_PROPERTY, {"architecture": architecture, "path": path, "check": check})


def record_traffic(record_property: RecordProperty, **counts: int) -> None:
    """What happened to the requests meanwhile, by the names of the table with underscores."""
    record_property(_PROPERTY, {name.replace("_", " "): count for name, count in counts.items()})


def write_parity(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table if any of its tests ran."""
    collected = _collect(terminalreporter)
    if not collected:
        return
    header = ["architecture", "path", GREEDY, SEEDED, *_TRAFFIC]
    rows = [
        [architecture, path, *(str(cells.get(name, "")) for name in header[2:])]
        for (architecture, path), cells in sorted(collected.items(), key=lambda row: (row[0][1] == "fallback", row[0]))
    ]
    write_table(terminalreporter, "parity: architecture, path, verdict", header, rows)


def _collect(terminalreporter: pytest.TerminalReporter) -> dict[tuple[str, str], dict[str, Any]]:
    """The cells of every architecture and path."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for outcome, verdict in (("passed", "equal"), ("failed", "DIFFERS")):
        for report in terminalreporter.getreports(outcome):
            recorded: dict[str, Any] = {}
            for name, value in getattr(report, "user_properties", []):
                recorded |= value if name == _PROPERTY else {}
            if recorded and report.when == "call":
                cells = rows.setdefault((recorded["architecture"], recorded["path"]), {})
                cells |= {recorded["check"]: verdict} | {name: recorded[name] for name in _TRAFFIC if name in recorded}
    return rows
