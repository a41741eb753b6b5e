"""Scores equal those of sentence-transformers' CrossEncoder, alone and in any batch."""

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from gpu_worker.loader import LoadError
from gpu_worker.protocol import Score
from gpu_worker.tasks.pooling.tokens import share_room
from tests.tiny_encoders import make_reranker, make_texts
from tests.worker.pooling.driving import run, serve

QUERY = "w1 w2 query"
DOCUMENTS = make_texts(16, seed=3)


def predict(folder: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    """What sentence-transformers itself answers."""
    return CrossEncoder(str(folder), device="cpu", local_files_only=True).predict(pairs)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "deberta-v2", "qwen3"])
def test_one_query_for_all_documents(tmp_path: Path, architecture: str) -> None:
    folder = make_reranker(tmp_path, architecture)
    served = serve(folder)
    theirs = predict(folder, [(QUERY, document) for document in DOCUMENTS])
    together, alone = run(served, Score("all", [QUERY], DOCUMENTS), Score("one", [QUERY], DOCUMENTS[3:4]))
    assert np.abs(together[:, 0] - theirs).max() < 1e-5
    assert np.abs(alone[0, 0] - theirs[3]) < 1e-5
    assert (served.info.task, served.info.dimensions) == ("score", 0)


def test_a_query_for_each_document(tmp_path: Path) -> None:
    folder = make_reranker(tmp_path)
    queries = make_texts(16, seed=4)
    (ours,) = run(serve(folder), Score("s", [q[:20] for q in queries], DOCUMENTS, max_tokens=-1))
    theirs = predict(folder, [(query[:20], document) for query, document in zip(queries, DOCUMENTS, strict=True)])
    assert np.abs(ours[:, 0] - theirs).max() < 1e-5


@pytest.mark.parametrize("lengths", [(10, 200), (200, 10), (200, 200), (29, 28), (200, 29)], ids=str)
def test_pairs_are_cut_as_the_library_cuts_them(tmp_path: Path, lengths: tuple[int, int]) -> None:
    folder = make_reranker(tmp_path)
    query, document = "w1 " * lengths[0], "w2 " * lengths[1]
    (ours,) = run(serve(folder), Score("s", [query], [document], max_tokens=-1))
    assert np.abs(ours[:, 0] - predict(folder, [(query, document)])).max() < 1e-5


def test_a_pair_shares_what_room_there_is() -> None:
    assert [share_room(*lengths, 7) for lengths in ((3, 4), (9, 9), (2, 9), (9, 2), (10, 4))] == [
        (3, 4),
        (3, 4),
        (2, 5),
        (5, 2),
        (4, 3),
    ]


@pytest.mark.parametrize("key", ["sentence_transformers", "sbert_ce_default_activation_function"])
def test_the_repositorys_own_activation(tmp_path: Path, key: str) -> None:
    folder = make_reranker(tmp_path)
    name = "torch.nn.modules.linear.Identity"
    config = json.loads((folder / "config.json").read_text())
    config[key] = {"activation_fn": name} if key == "sentence_transformers" else name
    (folder / "config.json").write_text(json.dumps(config))
    (ours,) = run(serve(folder), Score("s", [QUERY], DOCUMENTS))
    assert np.abs(ours[:, 0] - predict(folder, [(QUERY, document) for document in DOCUMENTS])).max() < 1e-5
    assert ours.min() < 0


def test_a_repository_saved_by_the_library_itself(tmp_path: Path) -> None:
    model = CrossEncoder(str(make_reranker(tmp_path / "made")), device="cpu", local_files_only=True)
    model.save_pretrained(str(tmp_path / "saved"))
    (ours,) = run(serve(tmp_path / "saved"), Score("s", [QUERY], DOCUMENTS))
    assert np.abs(ours[:, 0] - model.predict([(QUERY, document) for document in DOCUMENTS])).max() < 1e-5


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="classifier of 3 labels"):
        serve(make_reranker(tmp_path, num_labels=3))
