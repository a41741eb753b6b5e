"""Weights in fewer bits: the engine answers as transformers does with the very same weights, or the load is refused."""

import copy
import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from gpu_worker.engine.build import build_engine
from gpu_worker.kernels.weight_only import Int4Linear, Int8Linear, pack_weights
from gpu_worker.loader import LoadedModel, LoadError, load_model
from gpu_worker.protocol import WorkerConfig
from gpu_worker.quantization import check_quantization
from gpu_worker.server.loading import load_served_model
from tests.custom_code import edit_json, save_words
from tests.tiny_models import VOCAB_SIZE, make_model
from tests.tiny_vision import make_vision_model
from tests.worker.engine.driving import generate, make_config, make_prompt, make_request, run_all

ARCHITECTURE = "qwen2"
METHODS = ["int8", "int4", "bnb-8bit", "bnb-4bit"]
BLOCK = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with a tokenizer."""
    path = tmp_path_factory.mktemp("model")
    make_model(ARCHITECTURE).save_pretrained(path)
    save_words(path)
    return path


@functools.cache
def make_wide_model() -> Qwen2ForCausalLM:
    """Its layers are large enough for bitsandbytes on CPUs."""
    options = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "tie_word_embeddings": False}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCAB_SIZE, initializer_range=0.3, **options, **heads)).eval()


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide")
    make_wide_model().save_pretrained(path)
    save_words(path)
    return path


def load(folder: Path, **fields: Any) -> LoadedModel:
    return load_model(WorkerConfig(model=str(folder), **fields), lambda _part, _stage: None)


def assert_engine_equals_generate(model: Any, *, kind: str = "paged") -> None:
    """Requests of many lengths, all at once, against `model.generate` on a copy."""
    reference = copy.deepcopy(model)
    built = build_engine(model, make_config())
    assert built.kind == kind, built.reason
    rng = random.Random(3)
    requests = [make_request(str(i), make_prompt(rng, length)) for i, length in enumerate((1, 4, 9, 17, 30, 30))]
    outputs = run_all(built.engine, requests)
    assert [output.error for output in outputs if output.error] == []
    for request in requests:
        assert request.output_token_ids == generate(reference, request)


@pytest.mark.parametrize("method", METHODS)
def test_greedy_answers_equal_generate_of_the_same_weights(wide_folder: Path, method: str) -> None:
    loaded = load(wide_folder, quantization=method)
    assert loaded.quantization == method
    plain = make_wide_model()
    tokens = torch.tensor([make_prompt(random.Random(1), 20)])
    with torch.inference_mode():
        difference = (loaded.model(tokens).logits - plain(tokens).logits).norm() / plain(tokens).logits.norm()
    assert 0 < difference < (0.1 if "8" in method else 0.7)  # it is another model, but not any other
    assert_engine_equals_generate(loaded.model)


def test_a_model_of_the_fallback_engine_is_quantized_too(tmp_path: Path) -> None:
    make_model("bloom").save_pretrained(tmp_path)
    save_words(tmp_path)
    loaded = load(tmp_path, quantization="int8")
    assert loaded.quantization == "int8"
    assert_engine_equals_generate(loaded.model, kind="fallback")


@pytest.mark.parametrize("num_rows", [1, 3, 30, 90], ids=lambda number: f"{number} rows")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("num_outputs", [48, 128], ids=lambda number: f"{number} outputs")
def test_packed_layers_multiply_by_the_rounded_weight(
    num_outputs: int, num_rows: int, dtype: torch.dtype, with_bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, num_outputs, bias=with_bias).to(dtype)
    x = torch.randn(2, num_rows, 64).to(dtype)
    for packed, step in ((Int8Linear(linear), 1 / 127), (Int4Linear(linear, 32), 1 / 7.5)):
        unit = torch.eye(64).to(dtype)
        rounded = (packed(unit) - (packed.bias if with_bias else 0)).T
        assert (rounded - linear.weight).abs().max() <= 0.6 * step * linear.weight.abs().max() + 0.01
        expected = nn.functional.linear(x, rounded, linear.bias)
        actual = packed(x)
        assert actual.shape == expected.shape
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        assert torch.allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_what_cannot_be_packed_stays() -> None:
    model = copy.deepcopy(make_model(ARCHITECTURE))
    assert pack_weights(model, "int8") == 2 * 7
    assert type(model.lm_head) is nn.Linear
    model = copy.deepcopy(make_model(ARCHITECTURE))
    assert pack_weights(model, "int4") == 2 * 6
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear, "its 48 inputs make no groups"
    assert type(model.model.layers[0].mlp.up_proj) is Int4Linear
    seeing = copy.deepcopy(make_vision_model("llava"))
    assert pack_weights(seeing, "int8") > 0
    tower = [module for name, module in seeing.named_modules() if "vision" in name or "projector" in name]
    assert not any(isinstance(module, Int8Linear) for module in tower)


def test_a_model_without_such_layers_is_refused(tmp_path: Path) -> None:
    make_model("gpt2").save_pretrained(tmp_path)
    save_words(tmp_path)
    with pytest.raises(LoadError, match="no layers that the quantization int8"):
        load(tmp_path, quantization="int8")


def test_the_worker_says_what_it_serves_and_why_it_is_not_compiled(folder: Path) -> None:
    def read_info(**fields: Any) -> tuple[str, str, str]:
        config = WorkerConfig(model=str(folder), num_blocks=16, block_size=4, max_num_seqs=4, **fields)
        info = load_served_model(config, lambda _part, _stage: None).info
        return info.engine, info.quantization, info.compile_obstacle

    assert read_info(quantization="int8") == ("paged", "int8", "Its weights are quantized.")
    assert read_info(quantization="int8", compile="off") == ("paged", "int8", "")
    assert read_info(compile="off") == ("paged", "", "")


# Checkpoints that are quantized already


def save_checkpoint(folder: Path, settings: dict[str, Any], round_weight: Any) -> Path:
    """A checkpoint as a method leaves it: `round_weight` gives the tensors that stand for one linear layer's weight."""
    make_model(ARCHITECTURE).save_pretrained(folder)
    save_words(folder)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors |= {f"{name.removesuffix('weight')}{part}": value for part, value in round_weight(tensor).items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", quantization_config=settings)
    return folder


def round_to_int8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale}


def round_to_fp8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    blocks = weight.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    scale = blocks.abs().amax(dim=(1, 3)) / 448
    scaled = blocks / scale[:, None, :, None]
    return {"weight": scaled.reshape(weight.shape).to(torch.float8_e4m3fn), "weight_scale_inv": scale}


COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "naive-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        }
    },
    "ignore": ["lm_head"],
}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}


@pytest.mark.parametrize(
    ("settings", "round_weight"),
    [(COMPRESSED, round_to_int8), (FP8, round_to_fp8)],
    ids=["compressed-tensors", "fp8"],
)
def test_checkpoints_of_other_methods_are_made_plain_where_nothing_computes_with_them(
    tmp_path: Path, settings: dict[str, Any], round_weight: Any
) -> None:
    loaded = load(save_checkpoint(tmp_path, settings, round_weight), dtype="float32")
    assert loaded.quantization == ""
    plain = make_model(ARCHITECTURE).model.layers[0].mlp.up_proj.weight
    read = loaded.model.model.layers[0].mlp.up_proj.weight
    assert 0 < (read - plain).abs().max() < 0.1 * plain.abs().max()
    assert_engine_equals_generate(loaded.model)


def test_a_checkpoint_of_bitsandbytes_is_served_as_it_is(wide_folder: Path, tmp_path: Path) -> None:
    first = load(wide_folder, quantization="bnb-4bit")
    first.model.save_pretrained(tmp_path)
    save_words(tmp_path)
    second = load(tmp_path)
    assert second.quantization == "bnb-4bit"
    tokens = torch.tensor([make_prompt(random.Random(1), 20)])
    with torch.inference_mode():
        assert torch.equal(first.model(tokens).logits, second.model(tokens).logits)
    assert_engine_equals_generate(second.model)


@pytest.mark.parametrize(
    ("method", "packages"),
    [("gptq", "gptqmodel optimum"), ("awq", "gptqmodel"), ("torchao", "torchao"), ("hqq", "hqq")],
    ids=["gptq", "awq", "torchao", "hqq"],
)
def test_a_missing_package_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, packages: str
) -> None:
    monkeypatch.setattr("gpu_worker.quantization.importlib.util.find_spec", lambda _name: None)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    save_words(tmp_path)
    with pytest.raises(LoadError, match=f"by the method {method}, which needs .*: pip install {packages}"):
        load(tmp_path)
    with pytest.raises(LoadError, match="pip install bitsandbytes"):
        load(folder, quantization="bnb-8bit")


def test_what_cannot_be_combined_is_refused(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, COMPRESSED, round_to_int8)
    with pytest.raises(LoadError, match="quantized already"):
        load(tmp_path, quantization="int8")
    with pytest.raises(LoadError, match="multiples of 32 outputs and 64 inputs"):
        load(folder, quantization="bnb-4bit")
    config = WorkerConfig(model=str(folder), quantization="int8")
    with pytest.raises(LoadError, match="is for CPUs"):
        check_quantization(folder, config, torch.device("cuda"))
