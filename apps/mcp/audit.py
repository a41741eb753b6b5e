"""Writes down every call of a tool: who, which, how long, how it ended. Never what was said."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from apps.accounts.caller import Caller
from apps.core.db import submit_db
from apps.mcp.models import CallStatus, McpServer, ToolCallRecord
from apps.mcp.results import CallResult
from apps.mcp.servers import ServerSpec


class CallNote:
    """Filled in when the call has ended; until then it counts as cancelled."""

    status = CallStatus.CANCELLED

    def take(self, result: CallResult) -> CallResult:
        """The result, noted."""
        self.status = result.status
        return result


@contextmanager
def note_call(spec: ServerSpec, tool: str, caller: Caller, request_id: str) -> Iterator[CallNote]:
    """The call is what happens within. Waits for nothing: the row is written soon."""
    note = CallNote()
    started_at, started_s = datetime.now(UTC), time.monotonic()
    try:
        yield note
    finally:
        record = ToolCallRecord(
            server_id=spec.row_id,
            server_label=spec.label,
            origin=spec.origin[:300],
            tool=tool[:200],
            user_id=caller.user_id,
            team_id=caller.team_id,
            api_key_id=caller.key_id,
            request_id=request_id,
            started_at=started_at,
            duration_s=time.monotonic() - started_s,
            status=note.status,
        )
        submit_db(_save, record)


def _save(record: ToolCallRecord) -> None:
    """The server may have been deleted since."""
    if record.server_id is not None and not McpServer.objects.filter(pk=record.server_id).exists():
        record.server_id = None
    record.save(force_insert=True)
