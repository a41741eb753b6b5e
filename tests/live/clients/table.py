"""The table of clients at the end of a test run: which, in which version, what each did, and whether it went well.

Works with workers of xdist too, whose reports bring along what was recorded.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.summary_table import write_table

_PROPERTY = "client"

RecordProperty = Callable[[str, Any], None]


def record_client(record_property: RecordProperty, client: str, version: str, did: str) -> None:
    """This test has the client do that."""
    record_property(_PROPERTY, {"client": client, "version": version, "did": did})


def write_clients(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table if any client ran."""
    done: dict[tuple[str, str], list[str]] = {}
    failed: dict[tuple[str, str], list[str]] = {}
    for outcome, lists in (("passed", done), ("failed", failed)):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", []):
                if name == _PROPERTY and report.when == "call":
                    lists.setdefault((value["client"], value["version"]), []).append(value["did"])
    clients = sorted(done.keys() | failed.keys())
    if not clients:
        return
    rows = []
    for client in clients:
        result = f"FAILED: {'; '.join(failed[client])}" if client in failed else "pass"
        rows.append([*client, "; ".join(done.get(client, [])), result])
    write_table(terminalreporter, "clients", ["client", "version", "what it did", "result"], rows)
