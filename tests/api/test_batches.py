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
from apps.files.models import StoredFile
from apps.registry import directory
from apps.registry.models import HostedModel
from apps.usage.models import UsageRecord, UsageStatus
from gpu_worker.protocol import Generate
from tests.api.batch_fixtures import CHAT, BatchApi, batches, make_line, scripted, wait_until
from tests.api.conftest import wait_for_settled_rows
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


@pytest.mark.parametrize(
    ("lines", "code", "line", "param"),
    [
        ([make_line("a"), make_line("b"), make_line("a")], "duplicate_custom_id", 3, "custom_id"),
        ([make_line("a"), b"\n", b'{"custom_id": \n'], "invalid_json_line", 3, None),
        ([make_line("a"), b"\xff\n"], "invalid_json_line", 2, None),
        ([make_line("a") | {"url": "/v1/completions"}], "mismatched_endpoint", 1, "url"),
        ([make_line("a") | {"method": "GET"}], "invalid_method", 1, "method"),
        ([make_line("a") | {"custom_id": ""}], "invalid_custom_id", 1, "custom_id"),
        ([make_line("a") | {"custom_id": 7}], "invalid_request", 1, None),
        ([make_line("a") | {"body": []}], "invalid_request", 1, "body"),
        ([{"custom_id": "a"}], "invalid_request", 1, None),
        ([b"[]\n"], "invalid_request", 1, None),
        ([b"\n", b"  \n"], "empty_file", None, "input_file_id"),
        ([make_line(str(number)) for number in range(6)], "too_many_lines", None, "input_file_id"),
        ([make_line("a"), make_line("b", padding="x" * 2000)], "line_too_long", 2, None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_input_that_is_not_valid_fails_the_batch(
    scripted: BatchApi, lines: list[Any], code: str, line: int | None, param: str | None
) -> None:
    with override_settings(MAX_BATCH_LINES=5, MAX_BODY_BYTES=1024):
        failed = scripted.wait_for(scripted.create(lines), "failed")
    (problem,) = failed["errors"]["data"]
    assert (problem["code"], problem["line"], problem["param"]) == (code, line, param)
    assert problem["message"]
    assert failed["failed_at"]
    assert (failed["output_file_id"], failed["error_file_id"], failed["request_counts"]["total"]) == (None, None, 0)
    assert not UsageRecord.objects.exists()


def test_so_many_problems_are_told(scripted: BatchApi) -> None:
    failed = scripted.wait_for(scripted.create([b"x\n"] * 80), "failed")
    assert [problem["line"] for problem in failed["errors"]["data"]] == list(range(1, 51))


@pytest.mark.parametrize("model", ["\x00", "x" * 300, 7, None, ["a"]], ids=["nul", "long", "number", "null", "list"])
def test_a_line_whose_model_is_no_name_fails_alone(scripted: BatchApi, model: Any) -> None:
    done = scripted.wait_for(scripted.create([make_line("\x00", model=model)]), "completed")
    assert (done["model"], done["request_counts"]["failed"]) == (None, 1)
    response = scripted.read(done["error_file_id"])["\x00"]["response"]
    assert response["status_code"] in (400, 404)


def test_lines_may_name_several_models(scripted: BatchApi) -> None:
    batch = scripted.create([make_line("a"), make_line("b", model="unknown")])
    done = scripted.wait_for(batch, "completed")
    assert (done["model"], done["request_counts"]) == (None, {"total": 2, "completed": 1, "failed": 1})
    assert scripted.read(done["error_file_id"])["b"]["response"]["status_code"] == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-" + "0" * 24}, "input_file_id"),
        ({"input_file_id": "\x00"}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 5000}}, "output_expires_after.anchor"),
        ({"priority": 1}, "priority"),
    ],
    ids=str,
)
def test_a_bad_request_names_its_field(batches: BatchApi, fields: dict[str, Any], param: str) -> None:
    body = {"input_file_id": batches.upload([make_line("a")]), "endpoint": CHAT, "completion_window": "24h"} | fields
    answer = batches.post("/v1/batches", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not StoredFile.objects.filter(is_held=True).exists()


def test_a_body_that_cannot_be_read_is_refused(batches: BatchApi) -> None:
    with batches.client() as client, override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1024):
        answers = [client.post("/v1/batches", content=body) for body in (b"", b"[]", b"{", b"\xff", b" " * 2000)]
        answers += [client.put("/v1/batches"), client.delete("/v1/batches/x"), client.get("/v1/batches/x/cancel")]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 413, 405, 405, 405]
    assert all(set(answer.json()["error"]) == {"message", "type", "param", "code"} for answer in answers)


def test_the_file_must_be_ones_own_and_for_a_batch(batches: BatchApi) -> None:
    body = {"endpoint": CHAT, "completion_window": "24h"}
    user_data = batches.upload([make_line("a")], purpose="user_data")
    stranger = BatchApi(batches.url, make_key().secret)
    for api, file_id in ((batches, user_data), (stranger, batches.upload([make_line("a")]))):
        error = api.post("/v1/batches", body | {"input_file_id": file_id}).json()["error"]
        assert error["param"] == "input_file_id"


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
