"""Reading server-sent events in tests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.api.conftest import Api


def parse_events(text: str) -> list[dict[str, Any]]:
    """The JSON of every data event but [DONE]; comments are left out."""
    events = [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]
    return [json.loads(event) for event in events if event != "[DONE]"]


def parse_comments(text: str) -> list[str]:
    """The comments."""
    return [block.removeprefix(": ") for block in text.split("\n\n") if block.startswith(": ")]


@contextmanager
def stream(api: Api, path: str, body: object) -> Iterator[httpx.Response]:
    """An open response; leaving the block drops the connection."""
    with api.client() as client, client.stream("POST", path, json=body) as response:
        yield response
