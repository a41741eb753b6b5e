"""What the product promises under load and when something dies, on a whole running installation."""

import asyncio
import json
import os
import signal

import httpx
import pytest

from tests.live.installation import MODEL, Installation, run_installation, wait_until

QUESTIONS = [
    "What is Atrium?",
    "How do I create an API key?",
    "Count from 1 to 100.",
    "Hello!",
    "Explain everything about Atrium in detail.",
    "What can you do?",
    "Tell me a long story.",
    "How do I use the openai SDK?",
]


def make_body(question: str, **options) -> dict:
    return {
        "model": MODEL, "stream": True, "temperature": 0, "max_tokens": 200,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": question}], **options,
    }  # fmt: skip


async def stream_events(client: httpx.AsyncClient, body: dict, cut_after: int | None = None) -> list[dict | str]:
    """All events of one stream, or the first `cut_after` of them before the client hangs up."""
    events: list[dict | str] = []
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                payload = line.removeprefix("data: ")
                events.append(payload if payload == "[DONE]" else json.loads(payload))
                if cut_after is not None and len(events) >= cut_after:
                    break
    return events


def join_text(events: list[dict | str]) -> str:
    chunks = [event for event in events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def open_client(server: Installation) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=120, limits=limits)


async def test_concurrent_streams_equal_the_same_requests_alone(installation):
    questions = [f"{QUESTIONS[i % len(QUESTIONS)]}{' ' * (i // len(QUESTIONS))}" for i in range(32)]
    async with open_client(installation) as client:
        alone = [join_text(await stream_events(client, make_body(question))) for question in questions]
        together = await asyncio.gather(*[stream_events(client, make_body(question)) for question in questions])
    assert [join_text(events) for events in together] == alone
    assert all(events[-1] == "[DONE]" for events in together)
    assert all(len(text) > 3 for text in alone)


async def test_cut_streams_free_their_blocks_and_are_counted_exactly(installation):
    wait_until(lambda: installation.get_worker_stats()["num_running"] == 0, 60, "the worker is idle")
    since = max((row["created_at"] for row in installation.list_usage()), default="")
    async with open_client(installation) as client:
        results = await asyncio.gather(
            *[
                stream_events(
                    client,
                    make_body(f"Count from {i} to 100.", ignore_eos=True),  # no answer ends before it is cut
                    cut_after=8 if i % 2 else None,
                )
                for i in range(32)
            ]
        )
    whole = results[::2]

    def all_settled() -> list | None:
        rows = installation.list_usage(since)
        return rows if len(rows) == 32 and all(row["status"] != "open" for row in rows) else None

    rows = wait_until(all_settled, 60, "32 settled usage rows")
    stats = installation.get_worker_stats()
    assert stats["num_running"] == 0
    assert stats["free_blocks"] == stats["num_blocks"]
    assert sorted(row["status"] for row in rows) == ["cancelled"] * 16 + ["ok"] * 16
    by_id = {row["id"]: row for row in rows}
    for events in whole:
        usage = next(event["usage"] for event in events if isinstance(event, dict) and event.get("usage"))
        row = by_id[events[0]["id"]]
        assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    for row in rows:
        if row["status"] == "cancelled":
            assert row["prompt_tokens"] > 0
            assert 1 <= row["completion_tokens"] < 200


@pytest.mark.timeout(240)
async def test_a_killed_worker_comes_back_and_nobody_gets_a_broken_stream(tmp_path):
    with run_installation(tmp_path / "data") as server:
        replica = server.get_ready_replica()
        first_tokens = 0

        async def run(client: httpx.AsyncClient, i: int) -> list[dict | str]:
            nonlocal first_tokens
            events: list[dict | str] = []
            body = make_body(f"Count from 1 to 100.{' ' * i}", max_tokens=600, ignore_eos=True)
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for line in response.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    payload = line.removeprefix("data: ")
                    events.append(payload if payload == "[DONE]" else json.loads(payload))
                    if len(events) == 3:
                        first_tokens += 1
                        if first_tokens == 8:
                            os.kill(replica["pid"], signal.SIGKILL)
            return events

        async with open_client(server) as client:
            alone = None
            results = await asyncio.gather(*[run(client, i) for i in range(8)])
            for events in results:
                if events[-1] == "[DONE]":
                    usage = next(e["usage"] for e in events if isinstance(e, dict) and e.get("usage"))
                    assert usage["completion_tokens"] == 600
                else:
                    assert events[-1]["error"]["type"], events[-1]
            back = wait_until(
                lambda: (row := server.get_ready_replica()) and row["pid"] != replica["pid"] and row, 60, "it is back"
            )
            assert back["pid"]
            alone = await stream_events(client, make_body("Count from 1 to 100.", max_tokens=600, ignore_eos=True))
        complete = [join_text(events) for events in results if events[-1] == "[DONE]"]
        assert join_text(alone) in complete or not complete

        def settled() -> list | None:
            rows = server.list_usage()
            return rows if len(rows) == 9 and all(row["status"] != "open" for row in rows) else None

        rows = wait_until(settled, 60, "nine usage rows, each settled once")
        done = [row for row in rows if row["status"] == "ok"]
        assert len(done) == sum(events[-1] == "[DONE]" for events in results) + 1
        assert all(row["completion_tokens"] == 600 for row in done)
