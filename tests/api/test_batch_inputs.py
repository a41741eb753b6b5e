"""What a batch is made of: requests that cannot be, inputs that are not valid, and how each is told."""

from typing import Any

import pytest
from django.test import override_settings

from apps.files.models import StoredFile
from apps.usage.models import UsageRecord
from tests.api.batch_fixtures import CHAT, BatchApi, batches, make_line, scripted
from tests.factories import make_key

__all__ = ["batches", "scripted"]  # fixtures


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
