"""Adapters that cannot be used are refused with a sentence that says why; nothing but safetensors is read."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gpu_worker.adapters.files import CONFIG_FILE, WEIGHTS_FILE, AdapterReader
from gpu_worker.adapters.settings import AdapterError, read_settings
from gpu_worker.engine.lora import AdapterTargets, find_targets
from gpu_worker.protocol import AdapterRef
from tests.tiny_adapters import make_adapter
from tests.tiny_models import make_model

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def targets() -> AdapterTargets:
    return find_targets(make_model("qwen2"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good adapter, which tests copy."""
    folder = tmp_path_factory.mktemp("adapter")
    make_adapter(make_model("qwen2"), folder, r=4, target_modules=["q_proj", "down_proj"])
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def read(folder: Path | str, targets: AdapterTargets, **options: Any) -> Any:
    return AdapterReader(targets, **options).read(AdapterRef("mine", str(folder)))


def change_settings(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(settings | changes))


def change_weights(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE)


def test_a_good_adapter_is_read(folder: Path, targets: AdapterTargets) -> None:
    adapter = read(folder, targets)
    assert len(adapter.layers) == 4
    assert adapter.layers["model.layers.0.self_attn.q_proj"].scale == 8 / 4
    assert adapter.num_bytes == 4 * sum(a.numel() + b.numel() for a, b, _ in adapter.layers.values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"use_dora": True}, "It is a DoRA adapter (use_dora), which is not supported."),
        ({"bias": "all"}, "It has trained biases (bias), which is not supported."),
        ({"lora_bias": True}, "It has trained biases (lora_bias), which is not supported."),
        ({"modules_to_save": ["lm_head"]}, "It brings whole layers of its own (modules_to_save)"),
        ({"trainable_token_indices": [1, 2]}, "It brings embeddings of tokens (trainable_token_indices)"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "not those of a linear layer (target_parameters)"),
        ({"layer_replication": [[0, 2]]}, "It repeats layers of the model (layer_replication)"),
        ({"alora_invocation_tokens": [5]}, "It is an activated LoRA (alora_invocation_tokens)"),
        ({"invented_tomorrow": 3}, "a setting that is not known here (invented_tomorrow)"),
        ({"init_lora_weights": "pissa"}, "by changing the model's own weights (init_lora_weights: pissa)"),
        ({"peft_type": "IA3"}, "It is no LoRA adapter but one of the type IA3."),
        ({"task_type": "SEQ_CLS"}, "It is made for the task SEQ_CLS, not for CAUSAL_LM."),
        ({"r": 0}, "Its rank is not positive"),
        ({"r": "many"}, "Its adapter_config.json cannot be read"),
        ({"rank_pattern": {"q_proj": -1}}, "Its rank is not positive"),
        ({"rank_pattern": {"(": 3}}, "Its adapter_config.json cannot be read"),
        ({"r": 5}, "have the shapes [4, 48] and [32, 4]; with this model and its own rank they would have [5, 48]"),
        ({"rank_pattern": {"q_proj": 3}}, "Its matrices for 'model.layers.0.self_attn.q_proj' have the shapes"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_honoured_are_named(
    folder: Path, targets: AdapterTargets, changes: dict[str, Any], sentence: str
) -> None:
    change_settings(folder, **changes)
    with pytest.raises(AdapterError) as refused:
        read(folder, targets)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [{"init_lora_weights": "gaussian"}, {"rank_pattern": None}, {"lora_dropout": 0.1}, {"layers_to_transform": [0, 1]}],
    ids=lambda value: next(iter(value)),
)
def test_settings_without_effect_are_taken(folder: Path, targets: AdapterTargets, changes: dict[str, Any]) -> None:
    change_settings(folder, **changes)
    assert len(read(folder, targets).layers) == 4


def test_a_model_that_can_have_none_says_why(folder: Path, targets: AdapterTargets) -> None:
    with pytest.raises(AdapterError, match=r"It is served in batch-invariant mode\."):
        read(folder, dataclasses.replace(targets, obstacle="It is served in batch-invariant mode."))


def _rename(old: str, new: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(old)]:
            tensors[new + key.removeprefix(old)] = tensors.pop(key)

    return change


WEIGHTS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "a layer that is not there": (
        _rename(Q_PROJ, "base_model.model.transformer.h.0.attn.q_proj"),
        "It adapts 'transformer.h.0.attn.q_proj', which is not a linear layer of this model.",
    ),
    "a layer that is not linear": (
        _rename(Q_PROJ, "base_model.model.model.layers.0.input_layernorm"),
        "It adapts 'model.layers.0.input_layernorm', which is not a linear layer of this model.",
    ),
    "embeddings": (
        lambda tensors: tensors.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 97)}),
        "It has weights that are no LoRA matrix: 'base_model.model.model.embed_tokens.lora_embedding_A'.",
    ),
    "magnitudes": (
        lambda tensors: tensors.update({f"{Q_PROJ}.lora_magnitude_vector": torch.zeros(32)}),
        "It has weights that are no LoRA matrix",
    ),
    "half a pair": (
        lambda tensors: tensors.pop(f"{Q_PROJ}.lora_B.weight"),
        "It has only one of two matrices for 'model.layers.0.self_attn.q_proj'.",
    ),
    "another model's sizes": (
        lambda tensors: tensors.update({f"{Q_PROJ}.lora_B.weight": torch.zeros(64, 4)}),
        "have the shapes [4, 32] and [64, 4]; with this model and its own rank they would have [4, 32] and [32, 4].",
    ),
    "another type": (
        lambda tensors: tensors.update({f"{Q_PROJ}.lora_A.weight": torch.zeros(4, 32, dtype=torch.int8)}),
        "are neither float32 nor float16 nor bfloat16.",
    ),
    "nothing": (lambda tensors: tensors.clear(), "It has no weights."),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit_are_named(folder: Path, targets: AdapterTargets, name: str) -> None:
    change, sentence = WEIGHTS[name]
    change_weights(folder, change)
    with pytest.raises(AdapterError) as refused:
        read(folder, targets)
    assert sentence in str(refused.value)


def test_files_that_are_missing_or_broken(folder: Path, targets: AdapterTargets, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="folder is not on the model's machine"):
        read(tmp_path / "nothing", targets)
    with pytest.raises(AdapterError, match="neither a folder nor a hub id"):
        read("no such id", targets)
    with pytest.raises(AdapterError, match="not on this machine"):
        read("org/name", targets, local_files_only=True)
    (folder / WEIGHTS_FILE).write_bytes(b"no safetensors")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors cannot be read"):
        read(folder, targets)
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="pickle"):
        read(folder, targets)
    (folder / CONFIG_FILE).write_text("{")
    (folder / "adapter_model.bin").rename(folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"adapter_config\.json cannot be read"):
        read(folder, targets)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(AdapterError, match=r"has no adapter_config\.json"):
        read(folder, targets)


def test_the_version_changes_with_the_files_and_the_digest_with_their_content(
    folder: Path, targets: AdapterTargets, tmp_path: Path
) -> None:
    reader, ref = AdapterReader(targets), AdapterRef("mine", str(folder))
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert read(folder, targets).digest == read(copied, targets).digest
    before, digest = reader.find_version(ref), reader.read(ref).digest
    assert reader.find_version(ref) == before
    change_weights(folder, lambda tensors: tensors[f"{Q_PROJ}.lora_A.weight"].add_(1))
    os.utime(folder / WEIGHTS_FILE, ns=(1, 1))  # clocks may be coarse
    assert reader.find_version(ref) != before
    assert reader.read(ref).digest != digest
    assert reader.find_version(AdapterRef("hub", "org/name")) == ""


def test_ranks_and_scales_follow_the_patterns() -> None:
    given = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {"mlp.down_proj": 2, r"layers\.1\..*": 16}}
    settings = read_settings(json.dumps(given | {"alpha_pattern": {"q_proj": 2}}).encode())
    for name, rank in (("0.mlp.down_proj", 2), ("1.up_proj", 16), ("0.up_proj", 4)):
        assert settings.get_rank(f"model.layers.{name}") == rank
    assert settings.get_scale("model.layers.0.self_attn.q_proj") == 2 / 4
    stable = read_settings(json.dumps(given | {"use_rslora": True}).encode())
    assert stable.get_scale("model.layers.1.up_proj") == 8 / 4
