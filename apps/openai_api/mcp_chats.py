"""Chat completions that may call tools of registered MCP servers: the loop's events, without the calls.

The calls are the server's own affair: a chat completion has no place for them. Knows no encoder.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from apps.inference.events import Event
from apps.inference.generate import generate
from apps.mcp.events import ApprovedCall, CallEnded, ListingBegan, ListingEnded, RoundEnded
from apps.mcp.loop import run_loop
from apps.openai_api.mcp_plans import plan_chat
from apps.openai_api.schemas.chat import ChatCall
from gpu_worker.protocol import Delta, ToolCallDelta


def generate_chat(call: ChatCall) -> AsyncGenerator[Event, None]:
    """The events of the answer, whatever it takes. Raises ServiceError."""
    return _run(call) if call.mcp_servers else generate(call.request)


async def _run(call: ChatCall) -> AsyncGenerator[Event, None]:
    plan = await plan_chat(call.mcp_servers, call.request.tools, call.mcp_choice, call.request.caller)
    shown = _ShownCalls()
    async with aclosing(run_loop(call.request, plan)) as events:
        async for event in events:
            match event:
                case ListingEnded():
                    shown.hidden |= {tool.function for tool in event.tools}
                case RoundEnded():
                    shown.begin_round()
                case ListingBegan() | ApprovedCall() | CallEnded():
                    pass
                case Delta(tool_calls=list(pieces)):
                    if (delta := shown.filter(event, pieces)) is not None:
                        yield delta
                case _:
                    yield event


class _ShownCalls:
    """Which calls of a round the client sees, and by which numbers: those of its own functions."""

    def __init__(self) -> None:
        self.hidden: set[str] = set()
        self._numbers: dict[int, int] = {}

    def begin_round(self) -> None:
        self._numbers = {}

    def filter(self, delta: Delta, pieces: list[ToolCallDelta]) -> Delta | None:
        """None where nothing is left."""
        kept = []
        for piece in pieces:
            if piece.name is not None and piece.name not in self.hidden:
                self._numbers[piece.index] = len(self._numbers)
            if (number := self._numbers.get(piece.index)) is not None:
                kept.append(msgspec.structs.replace(piece, index=number))
        if not kept and not delta.text and not delta.reasoning:
            return None
        return msgspec.structs.replace(delta, tool_calls=kept or None)
