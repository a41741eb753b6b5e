"""POST /v1/embeddings: a real worker with a tiny model, OpenAI's shape, one usage row each."""

import base64
import time
from typing import Any

import numpy as np
import openai
import pytest

from apps.usage.models import UsageRecord, UsageStatus
from tests.api.batch_fixtures import BatchApi, batches, make_line
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.pooling_fixtures import embedder, embedding_api
from tests.tiny_encoders import make_embedder, make_texts
from tests.worker.pooling.driving import embed, serve
from tests.worker_process import WorkerProcess

__all__ = ["batches", "embedder", "embedding_api"]  # fixtures

PATH = "/v1/embeddings"
TEXTS = make_texts(9)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The vectors of TEXTS, computed in this process."""
    return embed(serve(make_embedder(tmp_path_factory.mktemp("model"))), TEXTS)


@pytest.fixture
def worker_is_busy(embedder: WorkerProcess) -> Any:
    """Waits until so many requests run in the worker."""

    def wait(count: int) -> None:
        deadline_s = time.monotonic() + 20
        while embedder.get_health()[1]["stats"]["num_running"] != count:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    return wait


def ask(api: Api, **fields: Any) -> dict[str, Any]:
    response = api.post(PATH, {"model": "embedder", "input": TEXTS} | fields)
    assert response.status_code == 200, response.text
    return response.json()


def get_rows(answer: dict[str, Any]) -> np.ndarray:
    return np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)


def test_answer_has_openais_shape(embedding_api: Api, expected: np.ndarray) -> None:
    answer = ask(embedding_api)
    rows = get_rows(answer)
    assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS)))
    assert {item["object"] for item in answer.pop("data")} == {"embedding"}
    num_tokens = sum(len(text.split()) + 2 for text in TEXTS)
    assert answer == {
        "object": "list",
        "model": "embedder",
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    assert np.abs(rows - expected).max() < 1e-5


def test_base64_holds_little_endian_float32(embedding_api: Api, expected: np.ndarray) -> None:
    answer = ask(embedding_api, encoding_format="base64")
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]]
    assert np.abs(np.stack(rows) - expected).max() < 1e-5


def test_inputs_of_every_shape(embedding_api: Api, expected: np.ndarray) -> None:
    token_ids = [1, 7 + 5, 2]  # [CLS] w5 [SEP]
    by_text = get_rows(ask(embedding_api, input="w5"))
    for given in (["w5"], token_ids, [token_ids]):
        assert np.abs(get_rows(ask(embedding_api, input=given)) - by_text).max() < 1e-5
    assert np.abs(get_rows(ask(embedding_api, input=TEXTS[:1])) - expected[:1]).max() < 1e-5


def test_dimensions_normalize_and_prompts(embedding_api: Api, expected: np.ndarray) -> None:
    cut = expected[:, :5]
    rows = get_rows(ask(embedding_api, dimensions=5))
    assert np.abs(rows - cut / np.linalg.norm(cut, axis=1, keepdims=True)).max() < 1e-5
    raw = get_rows(ask(embedding_api, normalize=False))
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.01
    asked = get_rows(ask(embedding_api, input_type="search_query"))
    assert np.abs(asked - get_rows(ask(embedding_api, prompt_name="query"))).max() < 1e-5
    assert np.abs(asked - get_rows(ask(embedding_api, input=[f"query : {text}" for text in TEXTS]))).max() < 1e-5
    assert np.abs(asked - expected).max() > 0.01


def test_long_inputs_are_refused_or_cut_where_asked(embedding_api: Api) -> None:
    response = embedding_api.post(PATH, {"model": "embedder", "input": ["w1", "w2 " * 100]})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input[1]")
    answer = ask(embedding_api, input="w2 " * 100, truncate_prompt_tokens=-1)
    assert answer["usage"]["prompt_tokens"] == 60
    assert ask(embedding_api, input="w2 " * 100, truncate_prompt_tokens=9)["usage"]["prompt_tokens"] == 9


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": []}, None, "input"),
        ({"input": ""}, None, "input"),
        ({"input": ["w1", ""]}, None, "input[1]"),
        ({"input": ["w1", [5]]}, None, "input"),
        ({"input": [[5], []]}, None, "input"),
        ({"input": [1.5]}, None, "input[0]"),
        ({"input": [99999]}, None, "input"),
        ({"input": ["w1"] * 2049}, None, "input"),
        ({"dimensions": 0}, None, "dimensions"),
        ({"dimensions": 33}, None, "dimensions"),
        ({"encoding_format": "int8"}, None, "encoding_format"),
        ({"prompt_name": "nonsense"}, None, "prompt_name"),
        ({"prompt_name": "query", "input_type": "query"}, None, "input_type"),
        ({"prompt_name": "query", "input": [[5]]}, "unsupported_parameter", "prompt_name"),
        ({"input_type": "clustering"}, None, "input_type"),
        ({"truncate_prompt_tokens": 0}, None, "truncate_prompt_tokens"),
        ({"embed_dtype": "float16"}, "unsupported_parameter", "embed_dtype"),
        ({"dimension": 5}, "unknown_parameter", "dimension"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request_names_its_field(
    embedding_api: Api, fields: dict[str, Any], code: str | None, param: str
) -> None:
    response = embedding_api.post(PATH, {"model": "embedder", "input": "w1"} | fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param), error


def test_bookkeeping_fields_are_accepted(embedding_api: Api) -> None:
    ask(embedding_api, user="me", encoding_format="float", add_special_tokens=True)


def test_one_usage_row_for_a_request(embedding_api: Api) -> None:
    num_tokens = ask(embedding_api)["usage"]["prompt_tokens"]
    (row,) = wait_for_settled_rows(1)
    assert row.id.startswith("embd-")
    assert (row.endpoint, row.status, row.prompt_tokens, row.completion_tokens) == (
        "embeddings",
        UsageStatus.OK,
        num_tokens,
        0,
    )
    assert row.device_s > 0
    assert row.ttft_s is not None


def test_a_refused_request_has_a_row_too(embedding_api: Api) -> None:
    embedding_api.post(PATH, {"model": "embedder", "input": "w1 " * 100})
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.error_code) == (UsageStatus.ERROR, "context_length_exceeded")


def test_a_client_that_leaves_stops_it_and_is_counted(embedding_api: Api, worker_is_busy: Any) -> None:
    texts = b",".join([b'"' + b"w1 " * 50 + b'"'] * 2048)
    with embedding_api.connect(PATH, b'{"model":"embedder","input":[' + texts + b"]}"):
        worker_is_busy(1)
    worker_is_busy(0)
    (row,) = wait_for_settled_rows(1)
    assert row.status == UsageStatus.CANCELLED
    assert row.prompt_tokens == 52 * 2048


def test_nobody_gets_in_without_a_key(embedding_api: Api) -> None:
    with embedding_api.client() as client:
        response = client.post(PATH, json={"model": "embedder", "input": "w1"}, headers={"authorization": "Bearer no"})
    assert response.status_code == 401
    assert not UsageRecord.objects.exists()


def test_openai_sdk_gets_the_same_in_both_formats(embedding_api: Api, expected: np.ndarray) -> None:
    with openai.OpenAI(base_url=f"{embedding_api.url}/v1", api_key=embedding_api.secret, max_retries=0) as client:
        by_default = client.embeddings.create(model="embedder", input=TEXTS)  # asks for base64
        as_floats = client.embeddings.create(model="embedder", input=TEXTS, encoding_format="float", dimensions=32)
    for answer in (by_default, as_floats):
        rows = np.array([item.embedding for item in answer.data], dtype=np.float32)
        assert np.abs(rows - expected).max() < 1e-5
    assert by_default.usage.total_tokens == as_floats.usage.total_tokens > 0


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_a_line_of_a_batch_is_answered_as_the_endpoint_answers(
    embedding_api: Api, batches: BatchApi, encoding_format: str
) -> None:
    body = {"model": "embedder", "input": TEXTS, "encoding_format": encoding_format}
    done = batches.wait_for(batches.create([make_line("x", PATH, **body)], PATH), "completed")
    response = batches.read(done["output_file_id"])["x"]["response"]
    expected = ask(embedding_api, encoding_format=encoding_format)
    assert (response["status_code"], response["body"]) == (200, expected)
    assert done["usage"]["input_tokens"] == expected["usage"]["prompt_tokens"]
    rows = wait_for_settled_rows(2)
    assert {row.endpoint for row in rows} == {"embeddings", "batch/embeddings"}


def test_chat_of_an_embedding_model_is_refused_by_name(embedding_api: Api) -> None:
    messages = [{"role": "user", "content": "hello"}]
    for path, body in (
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/rerank", {"query": "w1", "documents": ["w2"]}),
    ):
        response = embedding_api.post(path, {"model": "embedder"} | body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", "model")
        assert "embeddings" in error["message"]
