"""Decoders that judge: scores equal those of sentence-transformers' CrossEncoder with LogitScore."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.loader import LoadError
from gpu_worker.protocol import Score
from tests.tiny_encoders import MAX_LENGTH, make_judge, make_texts
from tests.worker.pooling.driving import make_request, run, serve

QUERY = "w1 w2 query"
DOCUMENTS = [text[:90] for text in make_texts(12, seed=3)]


def predict(folder: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    """What sentence-transformers itself answers."""
    return CrossEncoder(str(folder), device="cpu", local_files_only=True).predict(pairs)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"has_parts": True},
        {"instruction": "w7 w8 w9"},
        {"processing_kwargs": {"chat_template": {"open": True}}},
    ],
    ids=["flat", "parts", "instruction", "template-kwargs"],
)
def test_scores_are_the_librarys(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = make_judge(tmp_path, **options)
    served = serve(folder)
    theirs = predict(folder, [(QUERY, document) for document in DOCUMENTS])
    together, alone = run(served, Score("all", [QUERY], DOCUMENTS), Score("one", [QUERY], DOCUMENTS[3:4]))
    assert np.abs(together[:, 0] - theirs).max() < 1e-5
    assert np.abs(alone[0, 0] - theirs[3]) < 1e-5
    assert np.ptp(theirs) > 1e-3
    assert (served.info.task, served.info.architecture) == ("score", "Qwen3ForCausalLM")


def test_one_token_alone_without_an_activation(tmp_path: Path) -> None:
    folder = make_judge(tmp_path)
    edit(folder / "1_LogitScore" / "config.json", false_token_id=None)
    edit(folder / "config_sentence_transformers.json", activation_fn="torch.nn.modules.linear.Identity")
    (ours,) = run(serve(folder), Score("s", [QUERY], DOCUMENTS))
    assert np.abs(ours[:, 0] - predict(folder, [(QUERY, document) for document in DOCUMENTS])).max() < 1e-5


def test_a_cut_keeps_what_the_template_writes_last(tmp_path: Path) -> None:
    folder = make_judge(tmp_path)
    document = "w2 " * 200
    served = serve(folder)
    (ours,) = run(served, Score("s", [QUERY], [document], max_tokens=-1))
    assert np.abs(ours[:, 0] - predict(folder, [(QUERY, document)])).max() < 1e-5
    (sequence,) = make_request(served, Score("s", [QUERY], [document], max_tokens=20)).sequences
    assert len(sequence.token_ids) == 20
    with pytest.raises(RequestRejected) as caught:
        make_request(served, Score("s", [QUERY], [document]))
    assert caught.value.code == "context_length_exceeded"
    assert served.info.max_model_len == MAX_LENGTH


def test_texts_write_no_control_tokens(tmp_path: Path) -> None:
    served = serve(make_judge(tmp_path))
    plain, written = (
        make_request(served, Score("s", [QUERY], [text])).sequences[0].token_ids for text in ("w2", "w2 [SEP]")
    )
    assert written.count(2) == plain.count(2) == 2


def test_a_template_without_the_pair_is_refused_at_load(tmp_path: Path) -> None:
    folder = make_judge(tmp_path)
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.role }}{% endfor %}")
    with pytest.raises(LoadError, match="does not show a query and a document"):
        serve(folder)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("1_LogitScore/config.json", {"module_input_name": "token_embeddings"}, "LogitScore"),
        ("1_LogitScore/config.json", {"true_token_id": 10**6}, "could not be computed"),
        ("sentence_bert_config.json", {"transformer_task": "feature-extraction"}, "feature-extraction"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 8}}}, "processing_kwargs"),
    ],
    ids=["input", "token", "task", "kwargs"],
)
def test_what_is_not_known_is_refused_at_load(tmp_path: Path, name: str, fields: dict[str, Any], message: str) -> None:
    folder = make_judge(tmp_path)
    edit(folder / name, **fields)
    with pytest.raises(LoadError, match=message):
        serve(folder)
