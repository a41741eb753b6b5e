"""What cannot be served as asked is refused by name: requests by the frontend, repositories at load."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.loader import LoadError
from gpu_worker.protocol import Embed, Score
from gpu_worker.server.loading import ServedModel
from gpu_worker.tasks.detect import detect_task
from tests.tiny_encoders import MAX_LENGTH, VOCAB_SIZE, make_embedder, make_reranker, write_modules
from tests.worker.pooling.driving import serve

LONG = "w1 " * MAX_LENGTH


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return serve(make_embedder(tmp_path_factory.mktemp("embedder"), settings={"prompts": {"query": "query : "}}))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return serve(make_reranker(tmp_path_factory.mktemp("reranker")))


def refuse(served: ServedModel, message: Embed | Score) -> tuple[str, str | None]:
    with pytest.raises(RequestRejected) as refused:
        served.frontend.prepare(message)
    return refused.value.code, refused.value.param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"inputs": []}, "input"),
        ({"inputs": ["w1", []]}, "input[1]"),
        ({"inputs": [[VOCAB_SIZE]]}, "input"),
        ({"inputs": ["\ud800"]}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 33}, "dimensions"),
        ({"prompt_name": "nonsense"}, "prompt_name"),
        ({"max_tokens": 0}, "truncate_prompt_tokens"),
        ({"max_tokens": MAX_LENGTH + 1}, "truncate_prompt_tokens"),
        ({"inputs": [LONG], "max_tokens": 2}, "truncate_prompt_tokens"),
    ],
    ids=str,
)
def test_an_embedding_request_names_its_fault(embedder: ServedModel, fields: dict[str, Any], param: str) -> None:
    assert refuse(embedder, Embed("e", **({"inputs": ["w1"]} | fields))) == ("invalid_request", param)


def test_a_prompt_is_not_put_before_token_ids(embedder: ServedModel) -> None:
    assert refuse(embedder, Embed("e", [[5]], prompt_name="query")) == ("unsupported", "prompt_name")


@pytest.mark.parametrize(
    ("inputs", "param"), [([LONG], "input"), (["w1", LONG], "input[1]"), ([[5] * 61], "input")], ids=["1", "2", "ids"]
)
def test_a_long_input_is_named(embedder: ServedModel, inputs: list[Any], param: str) -> None:
    assert refuse(embedder, Embed("e", inputs)) == ("context_length_exceeded", param)


def test_a_long_pair_names_its_document(reranker: ServedModel) -> None:
    assert refuse(reranker, Score("s", ["w1"], ["w2", LONG])) == ("context_length_exceeded", "documents[1]")
    score = Score("s", ["w1"], [LONG], query_param="text_1", document_param="text_2")
    assert refuse(reranker, score) == ("context_length_exceeded", "text_2")


@pytest.mark.parametrize(("queries", "documents"), [([], ["w1"]), (["w1"], []), (["w1", "w2"], ["w1"] * 3)], ids=str)
def test_queries_and_documents_must_match(reranker: ServedModel, queries: list[str], documents: list[str]) -> None:
    assert refuse(reranker, Score("s", queries, documents)) == ("invalid_request", "query")


@pytest.mark.parametrize(
    ("modules", "sentence"),
    [
        ({"pooling": {"pooling_mode": "median"}}, "pooling mode 'median'"),
        ({"dense": ("os.system", 8)}, r"activation os\.system"),
        ({"dense": ("torch.nn.modules.activation.Bogus", 8)}, "activation torch"),
        ({"transformer_task": "fill-mask"}, "fill-mask"),
    ],
    ids=str,
)
def test_a_repository_that_asks_for_more_is_refused(tmp_path: Path, modules: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LoadError, match=sentence):
        serve(make_embedder(tmp_path, **modules))


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        (["sentence_transformers.models.StaticEmbedding"], "no Transformer"),
        (["sentence_transformers.models.Transformer", "sentence_transformers.models.LSTM"], "module LSTM"),
        (["sentence_transformers.models.Transformer", "homemade.Pooling"], "code of its own"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_an_unknown_module_is_refused(tmp_path: Path, kinds: list[str], sentence: str) -> None:
    make_embedder(tmp_path)
    modules = [{"idx": index, "name": str(index), "path": "", "type": kind} for index, kind in enumerate(kinds)]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(LoadError, match=sentence):
        serve(tmp_path)


def test_weights_that_are_missing_are_said(tmp_path: Path) -> None:
    make_embedder(tmp_path, dense=("torch.nn.modules.activation.Tanh", 8))
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(LoadError, match="2_Dense has no weights"):
        serve(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("Qwen3ForCausalLM", "generate"),
        ("GPT2LMHeadModel", "generate"),
        ("Qwen3Model", "embed"),
        ("XLMRobertaModel", "embed"),
        ("BertForMaskedLM", "embed"),
        ("BertForSequenceClassification", "score"),
        (None, "generate"),
    ],
)
def test_the_task_follows_from_the_architecture(tmp_path: Path, architecture: str | None, task: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architecture and [architecture]}))
    assert detect_task(tmp_path) == task


@pytest.mark.parametrize(("kind", "task"), [("CrossEncoder", "score"), ("SentenceTransformer", "embed")])
def test_the_library_s_files_come_first(tmp_path: Path, kind: str, task: str) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    write_modules(tmp_path, settings={"model_type": kind})
    assert detect_task(tmp_path) == task
