"""Batches on a whole running installation: real Celery, the demo model, the openai SDK, and kill -9."""

import contextlib
import json
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.live.installation import API_KEY, MODEL, Installation, run_installation, wait_until

CHAT = "/v1/chat/completions"


def make_line(custom_id: str, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": custom_id}], "temperature": 0, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def open_client(server: Installation) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=API_KEY, timeout=120)


def create(client: openai.OpenAI, lines: list[dict[str, Any]]) -> Any:
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def wait_for(client: openai.OpenAI, batch: Any, condition: Any, what: str) -> Any:
    def look() -> Any:
        now = client.batches.retrieve(batch.id)
        return now if condition(now) else None

    return wait_until(look, 300, what)


def read(client: openai.OpenAI, file_id: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines)
    return by_id


def find_celery(server: Installation) -> psutil.Process:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ATRIUM_DATA_DIR") == str(server.data_dir) and "celery" in process.cmdline():
                return process
    raise AssertionError("there is no celery")


@pytest.mark.timeout(900)
def test_a_batch_lives_through_the_sdk(installation: Installation) -> None:
    questions = ["What is Atrium?", "Hello!", "Count from 1 to 10.", "What can you do?"]
    with open_client(installation) as client:
        batch = create(client, [*(make_line(question) for question in questions), make_line("wrong", n=0)])
        done = wait_for(client, batch, lambda now: now.status == "completed", "the batch is complete")
        assert done.request_counts.model_dump() == {"total": 5, "completed": 4, "failed": 1}
        answers = read(client, done.output_file_id)
        for question in questions:
            body = make_line(question)["body"]
            alone = client.chat.completions.create(**body).model_dump(mode="json")["choices"][0]["message"]["content"]
            assert answers[question]["response"]["body"]["choices"][0]["message"]["content"] == alone
        assert read(client, done.error_file_id)["wrong"]["response"]["body"]["error"]["param"] == "n"
        batch = create(
            client, [make_line(f"Count from {i} to 100.", max_tokens=900, ignore_eos=True) for i in range(60)]
        )
        wait_for(client, batch, lambda now: now.status == "in_progress", "the batch runs")
        client.batches.cancel(batch.id)
        done = wait_for(client, batch, lambda now: now.status == "cancelled", "the batch is cancelled")
        errors = read(client, done.error_file_id)
        answers = read(client, done.output_file_id) if done.output_file_id else {}
        assert len(errors) + len(answers) == 60
        assert {line["error"]["code"] for line in errors.values()} == {"batch_cancelled"}


@pytest.mark.timeout(900)
def test_a_batch_goes_on_after_a_restart_and_after_kill_9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATRIUM_BATCH_CONCURRENCY", "2")
    lines = [make_line(f"Count from {i} to 100.", max_tokens=150, ignore_eos=True) for i in range(16)]
    with run_installation(tmp_path / "data") as server, open_client(server) as client:
        batch = create(client, lines)
        wait_for(client, batch, lambda now: now.request_counts.completed >= 2, "two lines are answered")
    # Stopped in order, it lets go of the batch: the next need not wait until it is stale.
    (row,) = server.query("SELECT status, owner, num_completed FROM batches_batch")
    assert (row["status"], row["owner"]) == ("in_progress", "")
    with run_installation(tmp_path / "data") as server, open_client(server) as client:
        num_kept = row["num_completed"]
        wait_for(client, batch, lambda now: now.request_counts.completed > num_kept, "it has gone on")
        find_celery(server).kill()
        server.process.wait(60)  # it says so and ends
        num_rows_before = len(server.list_usage())
        num_kept = len(server.query("SELECT 1 FROM batches_finishedline"))
        assert 3 <= num_kept < 16
    with run_installation(tmp_path / "data") as server, open_client(server) as client:
        done = wait_for(client, batch, lambda now: now.status == "completed", "the batch is complete")
        assert done.request_counts.model_dump() == {"total": 16, "completed": 16, "failed": 0}
        answers = read(client, done.output_file_id)
        assert set(answers) == {line["custom_id"] for line in lines}
        for answer in answers.values():
            assert answer["response"]["body"]["usage"]["completion_tokens"] == 150

        def settled() -> Any:
            rows = server.list_usage()
            return rows if all(row["status"] != "open" for row in rows) else None

        rows = wait_until(settled, 120, "every row is settled")
        assert {row["endpoint"] for row in rows} == {"batch/chat.completions"}
        assert {answer["response"]["request_id"] for answer in answers.values()} <= {row["id"] for row in rows}
        # What was committed was not run again: only what was in the middle, two lines at each stop.
        assert num_kept <= num_rows_before <= num_kept + 4
        assert 16 <= len(rows) <= 16 + 4
        assert not server.query("SELECT 1 FROM batches_finishedline")
