"""/v1/batches: the whole life of one, what its files say, and that its answers are those of the endpoint."""

import json
from datetime import timedelta
from typing import Any

import openai
import pytest
from django.test import override_settings
from django.utils import timezone

from apps.accounts.keys import revoke_key
from apps.accounts.models import APIKey, Membership
from apps.batches import leases
from apps.batches.models import Batch, BatchStatus, FinishedLine
from apps.registry import directory
from apps.registry.models import HostedModel
from apps.usage.models import UsageStatus
from gpu_worker.protocol import Generate
from tests.api.batch_fixtures import CHAT, BatchApi, batches, make_line, scripted
from tests.api.conftest import wait_for_settled_rows, wait_until
from tests.api.test_sdks import make_openai
from tests.factories import make_key
from tests.scripted_worker import Answer, ScriptedWorker

__all__ = ["batches", "scripted"]  # fixtures


def hold(worker: ScriptedWorker, *contents: str) -> None:
    """Requests whose first message is one of these get a token and then nothing until `release`."""

    def answer(message: Generate) -> Answer:
        is_held = (message.messages or [{}])[0].get("content") in contents
        return Answer.of("a", "b", hold_after=1 if is_held else None)

    worker.answer = answer


def strip(body: dict[str, Any]) -> Any:
    """Without what is new in every answer."""
    text = json.dumps(
        {name: value for name, value in body.items() if name not in ("created", "created_at", "completed_at")}
    )
    return json.loads(text.replace(body["id"].partition("_" if body["id"].startswith("resp") else "-")[2], "ID"))


def test_openai_sdk_lives_through_a_batch(scripted: BatchApi, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    lines = [make_line("first"), make_line("wrong", tempratur=1), make_line("second", max_tokens=9)]
    with make_openai(scripted) as client:
        file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint=CHAT,
            completion_window="24h",
            metadata={"project": "x"},
            output_expires_after={"anchor": "created_at", "seconds": 7200},
        )
        assert (batch.object, batch.input_file_id, batch.metadata) == ("batch", file.id, {"project": "x"})
        assert batch.expires_at - batch.created_at == 86400
        batch = wait_until(lambda: now if (now := client.batches.retrieve(batch.id)).status == "completed" else None)
        assert batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
        assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
        assert (batch.model, batch.errors, batch.failed_at, batch.cancelled_at) == ("scripted", None, None, None)
        assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (10, 4, 14)
        assert [row.id for row in client.batches.list()] == [batch.id]
        output = client.files.retrieve(batch.output_file_id)
        assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
        assert output.expires_at - output.created_at == 7200
        assert output.bytes == len(client.files.content(output.id).read())
    answers, errors = scripted.read(batch.output_file_id), scripted.read(batch.error_file_id)
    assert (set(answers), set(errors)) == ({"first", "second"}, {"wrong"})
    for answer in answers.values():
        assert answer["id"].startswith("batch_req_")
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
        assert answer["response"]["body"]["choices"][0]["message"]["content"] == "Hello"
    refused = errors["wrong"]["response"]
    assert (refused["status_code"], errors["wrong"]["error"]) == (400, None)
    assert refused["body"]["error"]["param"] == "tempratur"
    assert not FinishedLine.objects.exists()


def test_lines_are_booked_as_such_and_go_behind_interactive_work(scripted: BatchApi, worker: ScriptedWorker) -> None:
    batch = scripted.create([make_line("a"), make_line("b")])
    done = scripted.wait_for(batch, "completed")
    rows = wait_for_settled_rows(2)
    assert {row.id for row in rows} == {
        line["response"]["request_id"] for line in scripted.read(done["output_file_id"]).values()
    }
    key = APIKey.objects.get()
    for row in rows:
        assert (row.endpoint, row.status, row.model_name) == ("batch/chat.completions", UsageStatus.OK, "scripted")
        assert (row.user_id, row.team_id, row.api_key_id, row.streamed) == (key.user_id, key.team_id, key.pk, False)
    assert [message.priority for message in worker.generates] == [10, 10]


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "n": 2, "seed": 5}),
        ("/v1/completions", {"prompt": ["one", "two"], "max_tokens": 4}),
        ("/v1/responses", {"input": "hi", "store": False, "metadata": {"a": "b"}}),
        ("/v1/responses", {"input": "hi"}),
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "stop": []}),
        (CHAT, {"messages": []}),
        ("/v1/completions", {"prompt": "one", "logprobs": 7}),
        ("/v1/responses", {"input": "hi", "previous_response_id": "resp_0"}),
        ("/v1/embeddings", {"input": "hi"}),
        (CHAT, {"model": "unknown", "messages": [{"role": "user", "content": "hi"}]}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_a_line_is_answered_as_the_endpoint_answers(scripted: BatchApi, url: str, body: dict[str, Any]) -> None:
    expected = scripted.post(url, {"model": "scripted"} | body)
    done = scripted.wait_for(scripted.create([make_line("x", url, **body)], url), "completed")
    is_ok = expected.status_code == 200
    line = scripted.read(done["output_file_id" if is_ok else "error_file_id"])["x"]
    assert done["error_file_id" if is_ok else "output_file_id"] is None
    assert line["response"]["status_code"] == expected.status_code
    if is_ok:
        assert strip(line["response"]["body"]) == strip(expected.json())
    else:
        assert line["response"]["body"] == expected.json()


@pytest.mark.parametrize(
    ("url", "body", "param"),
    [
        (CHAT, {"stream": True}, "stream"),
        ("/v1/completions", {"prompt": "x", "stream": True}, "stream"),
        ("/v1/responses", {"input": "x", "stream": True}, "stream"),
        ("/v1/responses", {"input": "x", "background": True}, "background"),
    ],
    ids=["chat", "completions", "responses", "background"],
)
def test_what_a_line_cannot_be_is_named(scripted: BatchApi, url: str, body: dict[str, Any], param: str) -> None:
    done = scripted.wait_for(scripted.create([make_line("x", url, **body)], url), "completed")
    error = scripted.read(done["error_file_id"])["x"]["response"]["body"]["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", param)


def test_batches_are_their_owners_alone(scripted: BatchApi) -> None:
    batch = scripted.wait_for(scripted.create([make_line("a")]), "completed")
    other = BatchApi(scripted.url, make_key().secret)
    with other.client() as client:
        assert client.get("/v1/batches").json()["data"] == []
        assert client.get(f"/v1/batches/{batch['id']}").status_code == 404
        assert client.get("/v1/batches/batch_%00").status_code == 404
        assert client.get(f"/v1/files/{batch['output_file_id']}/content").status_code == 404
    other.cancel(batch, 404)
    with pytest.raises(openai.AuthenticationError), make_openai(BatchApi(scripted.url, "nobody")) as nobody:
        nobody.batches.list()


def test_lists_come_in_pages(scripted: BatchApi) -> None:
    ids = [scripted.create([make_line("a")])["id"] for _ in range(3)]
    with make_openai(scripted) as client:
        assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]
    for batch_id in ids:
        scripted.wait_for({"id": batch_id}, "completed")


def test_a_file_in_use_is_kept(scripted: BatchApi, worker: ScriptedWorker) -> None:
    hold(worker, "a")
    file_id = scripted.upload([make_line("a")])
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    first, second = (scripted.post("/v1/batches", body).json() for _ in range(2))
    with scripted.client() as client:
        assert client.delete(f"/v1/files/{file_id}").status_code == 409
        scripted.wait_for(scripted.cancel(first), "cancelled")
        assert client.delete(f"/v1/files/{file_id}").json()["error"]["code"] == "conflict"
        scripted.wait_for(scripted.cancel(second), "cancelled")
        assert client.delete(f"/v1/files/{file_id}").status_code == 200


def test_cancelling_keeps_what_was_answered(scripted: BatchApi, worker: ScriptedWorker) -> None:
    hold(worker, "b")
    batch = scripted.create([make_line("a"), make_line("b")])
    wait_until(lambda: scripted.get(batch)["request_counts"]["completed"] == 1)
    worker.wait_for(lambda worker: worker.num_running == 1)
    assert scripted.cancel(batch)["status"] in ("cancelling", "cancelled")
    done = scripted.wait_for(batch, "cancelled")
    assert done["cancelling_at"] <= done["cancelled_at"]
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 0}
    assert set(scripted.read(done["output_file_id"])) == {"a"}
    error = scripted.read(done["error_file_id"])["b"]
    assert (error["response"], error["error"]["code"]) == (None, "batch_cancelled")
    assert sorted(row.status for row in wait_for_settled_rows(2)) == [UsageStatus.CANCELLED, UsageStatus.OK]
    assert len(worker.aborted) == 1
    assert scripted.cancel(batch)["status"] == "cancelled"  # again: it stays as it is


def test_a_batch_that_has_ended_is_not_cancelled(scripted: BatchApi) -> None:
    batch = scripted.wait_for(scripted.create([make_line("a")]), "completed")
    assert scripted.cancel(batch, 409)["error"]["code"] == "conflict"
    assert scripted.get(batch)["status"] == "completed"


@pytest.mark.parametrize("has_begun", [True, False], ids=["running", "not begun"])
def test_a_batch_ends_with_its_window(scripted: BatchApi, worker: ScriptedWorker, has_begun: bool) -> None:
    hold(worker, "b")
    batch = scripted.create([make_line("a"), make_line("b")])
    wait_until(lambda: scripted.get(batch)["request_counts"]["completed"] == 1)
    past = timezone.now() - timedelta(seconds=1)
    if has_begun:
        Batch.objects.update(expires_at=past)
        done = scripted.wait_for(batch, "expired")
        assert set(scripted.read(done["output_file_id"])) == {"a"}
        assert scripted.read(done["error_file_id"])["b"]["error"]["code"] == "batch_expired"
    else:
        scripted.wait_for(scripted.cancel(batch), "cancelled")
        Batch.objects.update(expires_at=past, status=BatchStatus.VALIDATING, in_progress_at=None)
        scripted.create([make_line("a")])  # whose message has it taken up
        done = scripted.wait_for(batch, "expired")
    assert done["expired_at"]
    wait_until(lambda: not Batch.objects.filter(status__in=leases.LIVE).exists())
    wait_for_settled_rows(2 if has_begun else 3)


@pytest.mark.parametrize("end", ["revoked", "expired", "left the team"])
def test_without_its_key_no_further_line_is_run(scripted: BatchApi, worker: ScriptedWorker, end: str) -> None:
    hold(worker, "a")
    boss = make_key(team=APIKey.objects.get().team)
    with override_settings(AUTH_CACHE_TTL_S=0, BATCH_CONCURRENCY=1):
        batch = scripted.create([make_line("a"), make_line("b"), make_line("c")])
        worker.wait_for(lambda worker: worker.num_sent == 1)
        key = APIKey.objects.exclude(pk=boss.key.pk).get()
        if end == "revoked":
            revoke_key(key)
        elif end == "expired":
            APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
        else:
            Membership.objects.filter(user=key.user).delete()
        worker.release()
        row = wait_until(lambda: Batch.objects.filter(pk=batch["id"], status=BatchStatus.COMPLETED).first())
    assert (row.num_completed, row.num_failed) == (1, 2)
    (row,) = wait_for_settled_rows(1)
    assert row.api_key_id == key.pk


def test_a_model_that_is_removed_fails_the_rest(scripted: BatchApi, worker: ScriptedWorker) -> None:
    hold(worker, "a")
    with override_settings(BATCH_CONCURRENCY=1):
        batch = scripted.create([make_line("a"), make_line("b")])
        worker.wait_for(lambda worker: worker.num_sent == 1)
        HostedModel.objects.update(enabled=False)
        directory.invalidate()
        worker.release()
        done = scripted.wait_for(batch, "completed")
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    response = scripted.read(done["error_file_id"])["b"]["response"]
    assert (response["status_code"], response["body"]["error"]["code"]) == (404, "model_not_found")


def test_an_overloaded_model_is_asked_again(scripted: BatchApi, worker: ScriptedWorker) -> None:
    answers = [Answer(fail="overloaded"), Answer.of("done")]
    worker.answer = lambda message: answers.pop(0)
    done = scripted.wait_for(scripted.create([make_line("a")]), "completed")
    assert done["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert sorted((row.status, row.error_code) for row in wait_for_settled_rows(2)) == [
        ("error", "overloaded"),
        ("ok", ""),
    ]


def test_what_stays_overloaded_fails_in_the_end(scripted: BatchApi, worker: ScriptedWorker) -> None:
    worker.answer = lambda message: Answer(fail="overloaded")
    done = scripted.wait_for(scripted.create([make_line("a")]), "completed")
    response = scripted.read(done["error_file_id"])["a"]["response"]
    assert (response["status_code"], response["body"]["error"]["code"]) == (503, "overloaded")
    assert len(wait_for_settled_rows(3)) == 3  # one for each try


def test_a_worker_that_dies_is_asked_again_when_it_is_back(scripted: BatchApi, worker: ScriptedWorker) -> None:
    hold(worker, "a")
    batch = scripted.create([make_line("a")])
    worker.wait_for(lambda worker: worker.num_sent == 1)
    worker.kill()
    worker.say("a", "b")
    worker.restart()
    done = scripted.wait_for(batch, "completed")
    choice = scripted.read(done["output_file_id"])["a"]["response"]["body"]["choices"][0]
    assert choice["message"]["content"] == "ab"
    (row,) = wait_for_settled_rows(1)
    assert row.status == UsageStatus.OK


def test_a_team_has_so_many_open_batches_at_once(scripted: BatchApi, worker: ScriptedWorker, settings: Any) -> None:
    settings.MAX_OPEN_BATCHES = 1
    hold(worker, "held")
    first = scripted.create([make_line("held")])
    body = {"input_file_id": first["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
    refused = scripted.post("/v1/batches", body)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("too_many_open_batches", "rate_limit_error")
    assert error["message"].startswith("1 batches of your team have not ended")
    other = BatchApi(scripted.url, make_key().secret)
    other.wait_for(other.create([make_line("other")]), "completed", "failed")
    scripted.wait_for(scripted.cancel(first), "cancelled")
    scripted.wait_for(scripted.create([make_line("after")]), "completed")
