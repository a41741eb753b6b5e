"""POST /v1/rerank and POST /v1/score: a real worker with a tiny cross-encoder, the shapes of Cohere, Jina and vLLM."""

from typing import Any

import numpy as np
import pytest

from apps.usage.models import UsageStatus
from gpu_worker.protocol import Score
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.pooling_fixtures import reranker, reranking_api
from tests.tiny_encoders import make_reranker, make_texts
from tests.worker.pooling.driving import run, serve

__all__ = ["reranker", "reranking_api"]  # fixtures

QUERY = "w1 w2"
DOCUMENTS = make_texts(7)
RERANK: dict[str, Any] = {"model": "reranker", "query": QUERY, "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The scores of DOCUMENTS, computed in this process."""
    served = serve(make_reranker(tmp_path_factory.mktemp("model")))
    return run(served, Score("s", [QUERY], DOCUMENTS))[0][:, 0]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_rerank_puts_the_best_first(reranking_api: Api, expected: np.ndarray, path: str) -> None:
    answer = reranking_api.post(path, RERANK).json()
    assert answer.pop("id").startswith("rerank-")
    results = answer.pop("results")
    assert [result["index"] for result in results] == np.argsort(-expected, kind="stable").tolist()
    for result in results:
        assert abs(result["relevance_score"] - expected[result["index"]]) < 1e-5
        assert set(result) == {"index", "relevance_score"}
    num_tokens = answer["usage"]["prompt_tokens"]
    assert answer == {"model": "reranker", "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens}}
    assert num_tokens == sum(len(text.split()) + 5 for text in DOCUMENTS)


def test_rerank_returns_documents_and_the_first_n(reranking_api: Api, expected: np.ndarray) -> None:
    documents = [{"text": text} if index % 2 else text for index, text in enumerate(DOCUMENTS)]
    body = RERANK | {"documents": documents, "top_n": 3, "return_documents": True}
    results = reranking_api.post("/v1/rerank", body).json()["results"]
    assert [result["index"] for result in results] == np.argsort(-expected)[:3].tolist()
    assert [result["document"] for result in results] == [{"text": DOCUMENTS[r["index"]]} for r in results]
    many = reranking_api.post("/v1/rerank", RERANK | {"top_n": 100}).json()["results"]
    assert len(many) == len(DOCUMENTS)


def test_score_of_one_with_many_and_of_pairs(reranking_api: Api, expected: np.ndarray) -> None:
    body = {"model": "reranker", "text_1": QUERY, "text_2": DOCUMENTS}
    answer = reranking_api.post("/v1/score", body).json()
    assert answer.pop("id").startswith("score-")
    assert isinstance(answer.pop("created"), int)
    assert [item["index"] for item in answer["data"]] == list(range(len(DOCUMENTS)))
    assert {item["object"] for item in answer["data"]} == {"score"}
    scores = [item["score"] for item in answer.pop("data")]
    assert np.abs(np.array(scores) - expected).max() < 1e-5
    assert answer["object"] == "list"
    assert answer["usage"]["total_tokens"] > 0
    pairs = reranking_api.post("/v1/score", body | {"text_1": [QUERY] * len(DOCUMENTS)}).json()["data"]
    assert np.abs(np.array([item["score"] for item in pairs]) - expected).max() < 1e-5
    (single,) = reranking_api.post("/v1/score", body | {"text_2": DOCUMENTS[2]}).json()["data"]
    assert abs(single["score"] - expected[2]) < 1e-5


@pytest.mark.parametrize(
    ("path", "fields", "code", "param"),
    [
        ("/v1/rerank", {"query": ""}, None, "query"),
        ("/v1/rerank", {"documents": []}, None, "documents"),
        ("/v1/rerank", {"documents": ["w1", ""]}, None, "documents[1]"),
        ("/v1/rerank", {"documents": [{"title": "w1"}]}, None, "documents[0].text"),
        ("/v1/rerank", {"documents": ["w1"] * 2049}, None, "documents"),
        ("/v1/rerank", {"documents": ["w1", "w1 " * 100]}, "context_length_exceeded", "documents[1]"),
        ("/v1/rerank", {"top_n": 0}, None, "top_n"),
        ("/v1/rerank", {"max_tokens_per_doc": 10}, "unsupported_parameter", "max_tokens_per_doc"),
        ("/v1/rerank", {"topn": 1}, "unknown_parameter", "topn"),
        ("/v1/score", {"text_1": ["w1", "w2"], "text_2": ["w1"] * 3}, None, "text_1"),
        ("/v1/score", {"text_1": "w1", "text_2": []}, None, "text_2"),
        ("/v1/score", {"text_1": "w1"}, None, "text_2"),
        ("/v1/score", {"text_1": "w1", "text_2": "w1 " * 100}, "context_length_exceeded", "text_2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request_names_its_field(
    reranking_api: Api, path: str, fields: dict[str, Any], code: str | None, param: str
) -> None:
    body = RERANK | fields if path == "/v1/rerank" else {"model": "reranker"} | fields
    response = reranking_api.post(path, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param), error


def test_long_pairs_are_cut_where_asked(reranking_api: Api) -> None:
    body = RERANK | {"documents": ["w2 " * 100], "truncate_prompt_tokens": -1}
    assert reranking_api.post("/v1/rerank", body).json()["usage"]["total_tokens"] == 60


@pytest.mark.parametrize(("path", "endpoint"), [("/v1/rerank", "rerank"), ("/v1/score", "score")])
def test_one_usage_row_for_a_request(reranking_api: Api, path: str, endpoint: str) -> None:
    body = RERANK if endpoint == "rerank" else {"model": "reranker", "text_1": QUERY, "text_2": DOCUMENTS}
    usage = reranking_api.post(path, body).json()["usage"]
    (row,) = wait_for_settled_rows(1)
    assert (row.endpoint, row.status, row.prompt_tokens) == (endpoint, UsageStatus.OK, usage["prompt_tokens"])


def test_embeddings_of_a_reranker_are_refused_by_name(reranking_api: Api) -> None:
    response = reranking_api.post("/v1/embeddings", {"model": "reranker", "input": "w1"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", "model")
