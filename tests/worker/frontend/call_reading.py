"""Puts the deltas of a tool-call parser together as a client does."""

from typing import NamedTuple

from gpu_worker.frontend.parsers.reader import CallReader


class Outcome(NamedTuple):
    content: str
    calls: list[tuple[str, str]]
    num_complete: int


def read(parser: CallReader, pieces: list[str]) -> Outcome:
    """All that the parser makes of these pieces."""
    content, calls, ids = "", [], []
    for split in [*(parser.push(piece) for piece in pieces), parser.flush()]:
        content += split.content
        for delta in split.tool_calls:
            if delta.id is not None:
                assert delta.index == len(calls)
                assert delta.id.startswith("call_")
                ids.append(delta.id)
                calls.append([delta.name, ""])
            calls[delta.index][1] += delta.arguments
    assert len(set(ids)) == len(ids)
    return Outcome(content, [(name, arguments) for name, arguments in calls], parser.num_complete)
