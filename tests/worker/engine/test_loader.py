"""Loading from a folder, and the sentence an operator reads when that fails."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import CLIPConfig, GenerationConfig, PreTrainedTokenizerFast

from gpu_worker.loader import LoadError, load_model
from gpu_worker.protocol import WorkerConfig
from tests.tiny_models import VOCAB_SIZE, make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with a tokenizer and sampling defaults."""
    path = tmp_path_factory.mktemp("model")
    make_model("qwen2").save_pretrained(path)
    words = WordLevel({f"w{index}": index for index in range(VOCAB_SIZE)}, unk_token="w0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="w2").save_pretrained(path)
    GenerationConfig(temperature=0.6, top_k=20, do_sample=True, eos_token_id=[2, 5]).save_pretrained(path)
    return path


def load(model: Path | str, **fields: object) -> object:
    return load_model(WorkerConfig(model=str(model), **fields), lambda _part, _stage: None)


def test_a_folder_is_loaded_with_progress(folder: Path) -> None:
    seen: list[float] = []
    loaded = load_model(WorkerConfig(model=str(folder)), lambda part, _: seen.append(part))
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert len(seen) > 5
    assert (loaded.architecture, loaded.dtype, loaded.device) == ("Qwen2ForCausalLM", "float32", "cpu")
    assert (loaded.vocab_size, loaded.eos_token_ids, loaded.revision) == (VOCAB_SIZE, {2, 5}, "")
    assert loaded.generation_defaults == {"temperature": 0.6, "top_k": 20}
    state = make_model("qwen2").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())


def test_dtype_and_aliases_of_paged_attention_are_accepted(folder: Path) -> None:
    loaded = load(folder, dtype="bfloat16", attn_implementation="sdpa_paged")
    assert loaded.dtype == "bfloat16"
    assert load(folder, attn_implementation="eager").model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dtype": "int3"}, "dtype must be one of"),
        ({"device": "abacus"}, "no device called"),
        ({"attn_implementation": "bogus"}, "bogus"),
        ({"attn_implementation": "somebody/kernel"}, "code from a hub"),
    ],
)
def test_a_bad_setting_is_named(folder: Path, fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(LoadError, match=sentence):
        load(folder, **fields)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="There is no folder"):
        load(tmp_path / "nothing")
    with pytest.raises(LoadError, match=r"no config\.json"):
        load(tmp_path)
    with pytest.raises(LoadError, match="neither a folder nor a hub id"):
        load("two words")
    with pytest.raises(LoadError, match="not on this machine"):
        load("some/model", local_files_only=True)


def test_a_model_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in os.listdir(folder):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="no model of a kind that can be served"):
        load(tmp_path)


class Intruder:
    """Unpickled, it would write a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._marker,)


def test_pickled_weights_are_read_as_tensors_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    copy, marker = tmp_path / "copy", tmp_path / "marker"
    copy.mkdir()
    for name in os.listdir(folder):
        if not name.endswith(".safetensors"):
            (copy / name).write_bytes((folder / name).read_bytes())
    weights = make_model("qwen2").state_dict()
    torch.save(weights, copy / "pytorch_model.bin")
    assert torch.equal(load(copy).model.lm_head.weight, weights["lm_head.weight"])
    torch.save({**weights, "intruder": Intruder(marker)}, copy / "pytorch_model.bin")
    with pytest.raises(LoadError, match="more than tensors"):
        load(copy)
    assert not marker.exists()


def test_missing_weights_are_said(folder: Path, tmp_path: Path) -> None:
    for name in os.listdir(folder):
        if not name.endswith(".safetensors"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(LoadError, match="no weights"):
        load(tmp_path)
