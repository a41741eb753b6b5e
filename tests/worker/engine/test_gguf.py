"""Models of GGUF files: loaded whole from the one file, exact, and refused in a sentence where they cannot be."""

import copy
import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from gpu_worker.engine.build import build_engine
from gpu_worker.loader import LoadedModel, LoadError, load_model
from gpu_worker.protocol import Source, WorkerConfig, split_source
from tests.tiny_gguf import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, TOKENS, make_gguf_model, save_gguf
from tests.worker.engine.driving import generate, make_config, make_request, run_all

Q8_0 = gguf.GGMLQuantizationType.Q8_0
UP = "model.layers.1.mlp.up_proj.weight"


def load(model: Path | str, **fields: Any) -> LoadedModel:
    return load_model(WorkerConfig(model=str(model), **fields), lambda _part, _stage: None)


def test_weights_tokenizer_and_template_come_from_the_file(tmp_path: Path) -> None:
    save_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "another model\'s"}')
    loaded = load(f"{tmp_path}:tiny.gguf")
    expected = make_gguf_model().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())
    assert (loaded.architecture, loaded.dtype, loaded.quantization) == ("Qwen2ForCausalLM", "float32", "")
    assert loaded.eos_token_ids == {END_OF_TEXT, END_OF_TURN}
    assert loaded.tokenizer("abc<|im_end|>")["input_ids"] == [TOKENS.index("ab"), TOKENS.index("c"), END_OF_TURN]
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE


def test_quantized_weights_are_made_plain_and_answers_equal_generate(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", Q8_0)
    assert load(path).dtype == "bfloat16"
    loaded = load(path, dtype="float32")
    plain = make_gguf_model().state_dict()[UP].numpy()
    rounded = gguf.dequantize(gguf.quantize(plain, Q8_0), Q8_0)
    assert np.array_equal(loaded.model.state_dict()[UP].numpy(), rounded)
    assert 0 < np.abs(rounded - plain).max() < 0.02
    reference = copy.deepcopy(loaded.model)
    built = build_engine(loaded.model, make_config())
    assert built.kind == "paged", built.reason
    rng = random.Random(5)
    prompts = [[rng.randrange(END_OF_TEXT) for _ in range(length)] for length in (1, 7, 20, 31)]
    requests = [make_request(str(i), prompt, eos_token_ids=loaded.eos_token_ids) for i, prompt in enumerate(prompts)]
    run_all(built.engine, requests)
    for request in requests:
        assert request.output_token_ids == generate(reference, request)


def test_it_can_be_quantized_anew(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", Q8_0)
    assert load(path, quantization="int8").quantization == "int8"
    with pytest.raises(LoadError, match="use int8 or int4"):
        load(path, quantization="bnb-4bit")


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("other.gguf", r"no file other\.gguf\. There is tiny\.gguf"),
        ("../tiny.gguf", "names no file"),
        ("/etc/tiny.gguf", "names no file"),
        ("tiny-00001-of-00002.gguf", "one part of a model"),
        ("noise.gguf", "no GGUF file that can be read"),
        ("empty.gguf", "no GGUF file that can be read"),
        ("cut.gguf", "cut"),
        ("lacking.gguf", r"1 weights are missing \(model\.layers\.0\.mlp\.up_proj\.weight\)"),
        ("strange.gguf", "architecture strange is not supported"),
    ],
    ids=lambda value: value.partition(".gguf")[0] if value.endswith(".gguf") else "",
)
def test_what_cannot_be_loaded_is_said(tmp_path: Path, file: str, sentence: str) -> None:
    whole = save_gguf(tmp_path / "tiny.gguf").read_bytes()
    match file:
        case "tiny-00001-of-00002.gguf":
            (tmp_path / file).write_bytes(whole)
        case "noise.gguf":
            (tmp_path / file).write_bytes(b"GGUF" + random.Random(1).randbytes(5000))
        case "empty.gguf":
            (tmp_path / file).touch()
        case "cut.gguf":
            (tmp_path / file).write_bytes(whole[: len(whole) // 2])
        case "lacking.gguf":
            save_gguf(tmp_path / file, left_out="layers.0.mlp.up_proj")
        case "strange.gguf":
            save_gguf(tmp_path / file, architecture="strange")
    if not file.startswith(("other", "..", "/")):
        (tmp_path / "tiny.gguf").unlink()
    with pytest.raises(LoadError, match=sentence):
        load(f"{tmp_path}:{file}")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("org/name", Source("org/name")),
        ("org/name:tag", Source("org/name:tag")),
        ("org/name:a.gguf", Source("org/name", "a.gguf")),
        ("org/name:sub/a.gguf", Source("org/name", "sub/a.gguf")),
        ("/models/x/a.gguf", Source("/models/x", "a.gguf")),
        ("/models/x:a.gguf", Source("/models/x", "a.gguf")),
        ("/a.gguf", Source("/", "a.gguf")),
        ("a.gguf", Source(".", "a.gguf")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_source_names_a_place_and_perhaps_a_file(text: str, source: Source) -> None:
    assert split_source(text) == source


@pytest.mark.parametrize("file", ["../a.gguf", "/a.gguf", "x//a.gguf", "./a.gguf"])
def test_a_file_outside_its_place_is_not_sound(file: str) -> None:
    assert not Source("folder", file).is_sound
    assert Source("folder", "x/a.gguf").is_sound
    assert not Source("", "a.gguf").is_sound
