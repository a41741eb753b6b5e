"""Answers with adapters equal those of peft, greedily, whatever adapters the other requests of the batch have."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_worker.adapters.files import AdapterReader
from gpu_worker.adapters.settings import AdapterError
from gpu_worker.engine.build import BuiltEngine, build_engine
from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.lora import LoraAdapter, LowRank
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request
from gpu_worker.protocol import AdapterRef, Sampling
from tests.tiny_adapters import load_adapter, make_adapter, make_settings
from tests.tiny_models import FALLBACK, PAGED, make_model
from tests.tiny_vision import make_vision_model
from tests.worker.engine.driving import generate, make_config, make_prompt, make_request, run_all
from tests.worker.engine.seeing import Scene, make_reader

NO_END: frozenset[int] = frozenset()
# Where peft's "all-linear" takes the parameters of experts and routers too, or nothing.
SOME_LAYERS = {
    "mixtral": ["q_proj", "v_proj"],
    "qwen3_moe": ["q_proj", "o_proj"],
    "deepseek_v3": ["kv_b_proj", "o_proj"],
    "llama4_text": ["q_proj", "v_proj"],
    "mamba2": ["in_proj"],
}


class Adapters:
    """A tiny model in an engine, adapters for it, and peft's models with them."""

    def __init__(self, architecture: str, folder: Path, **changes: object) -> None:
        self.base = make_model(architecture)
        self.built = build_engine(copy.deepcopy(self.base), make_config(**changes))
        self.folder = folder
        self.models: dict[str | None, Any] = {None: self.base}
        self.weights: dict[str | None, LoraAdapter | None] = {None: None}

    def add(self, name: str, **settings: Any) -> LoraAdapter:
        make_adapter(self.base, self.folder / name, seed=len(self.models), **settings)
        self.models[name] = load_adapter(self.base, self.folder / name)
        self.weights[name] = read(self.built, self.folder / name)
        return self.weights[name]

    def make_request(self, request_id: str, prompt: list[int], name: str | None, **fields: Any) -> Request:
        weights = self.weights[name]
        salt = weights.digest if weights is not None else ""
        return make_request(request_id, prompt, adapter=weights, cache_salt=salt, **fields)


def read(built: BuiltEngine, folder: Path) -> LoraAdapter:
    return AdapterReader(built.targets).read(AdapterRef("test", str(folder)))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "bloom"])
def test_greedy_equals_peft_in_mixed_batches(architecture: str, tmp_path: Path) -> None:
    """Random arrivals, a pool so small that requests are preempted, prompts cut into chunks, shared prefixes."""
    rng = random.Random(5)
    adapters = Adapters(architecture, tmp_path, num_blocks=24)
    engine = adapters.built.engine
    assert isinstance(engine, PagedEngine if architecture in PAGED else FallbackEngine)
    for name, settings in make_settings(architecture).items():
        adapters.add(name, **settings)
    names = list(adapters.models)
    shared, lengths = make_prompt(rng, 22), [1, 5, 17, 40]
    requests, name_of = [], {}
    for index in range(20):
        prompt = shared + make_prompt(rng, 5) if index % 3 else make_prompt(rng, rng.choice(lengths))
        name_of[str(index)] = name = names[index // 2 % len(names)]
        requests.append(
            adapters.make_request(str(index), prompt, name, max_tokens=rng.choice([8, 24]), eos_token_ids=NO_END)
        )
    arriving = list(requests)
    while arriving or engine.has_work():
        for _ in range(min(rng.choice([0, 1, 2, 5]), len(arriving))):
            engine.add(arriving.pop(0))
        assert not [output.error for output in engine.step() if output.error]
        if isinstance(engine, PagedEngine):
            engine.check_integrity()

    if isinstance(engine, PagedEngine):
        assert sum(request.num_preemptions for request in requests) > 0
        assert sum(request.num_cached_tokens for request in requests) > 0
    answers = {name: [r.output_token_ids for r in requests if name_of[r.id] == name] for name in names}
    for name in names:
        same = [request for request in requests if name_of[request.id] == name]
        assert answers[name] == [generate(adapters.models[name], request) for request in same], name
        if name is not None:
            assert answers[name] != [generate(adapters.base, request) for request in same], "the adapter does nothing"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [*PAGED, *FALLBACK])
def test_every_architecture(architecture: str, tmp_path: Path) -> None:
    """All the layers that peft finds, or those that are no parameters of experts; a request without beside each."""
    base = make_model(architecture)
    settings = {"target_modules": SOME_LAYERS[architecture]} if architecture in SOME_LAYERS else {}
    adapted = make_adapter(base, tmp_path, **settings)
    built = build_engine(copy.deepcopy(base), make_config())
    adapter = read(built, tmp_path)
    rng = random.Random(1)
    requests = [
        make_request(str(i), make_prompt(rng, 5 + 3 * i), adapter=adapter if i % 2 else None, eos_token_ids=NO_END)
        for i in range(4)
    ]
    run_all(built.engine, requests)
    for request in requests:
        assert request.output_token_ids == generate(adapted if request.adapter is not None else base, request)
    assert any(request.output_token_ids != generate(base, request) for request in requests), "the adapter does nothing"


def test_experts_that_are_parameters_are_refused(tmp_path: Path) -> None:
    make_adapter(make_model("mixtral"), tmp_path)
    built = build_engine(copy.deepcopy(make_model("mixtral")), make_config())
    with pytest.raises(AdapterError, match="target_parameters"):
        read(built, tmp_path)


def test_prefixes_are_not_shared_between_adapters(tmp_path: Path) -> None:
    adapters = Adapters("qwen2", tmp_path)
    adapters.add("one")
    adapters.add("two")
    prompt = make_prompt(random.Random(0), 21)
    cached = []
    for name in (None, "one", "two", None, "one", "two"):
        request = adapters.make_request("r", prompt, name)
        run_all(adapters.built.engine, [request])
        assert request.output_token_ids == generate(adapters.models[name], request)
        cached.append(request.num_cached_tokens)
    assert cached == [0, 0, 0, 20, 20, 20]


def test_rows_without_an_adapter_do_not_change_by_a_bit(tmp_path: Path) -> None:
    """In batches of the same shape, a request without adapter beside two with one, and beside two without."""
    adapters = Adapters("qwen2", tmp_path, prefix_cache=False)
    adapters.add("one", target_modules=["q_proj", "down_proj", "lm_head"])
    rng = random.Random(1)
    prompts = [make_prompt(rng, length) for length in (9, 12, 7)]
    seen = []
    for name in (None, "one"):
        sampling = Sampling(seed=0, temperature=0.0, top_logprobs=20)
        fields: dict[str, Any] = {"sampling": sampling, "eos_token_ids": NO_END}
        requests = [
            adapters.make_request(str(index), prompt, name if index != 1 else None, **fields)
            for index, prompt in enumerate(prompts)
        ]
        outputs = run_all(adapters.built.engine, requests)
        seen.append([output.logprobs.top_logprobs for output in outputs if output.request is requests[1]])
    assert seen[0] == seen[1]


def test_guessed_tokens_have_their_requests_adapter(tmp_path: Path) -> None:
    """Several rows of logits for a request in a step, the layer that makes them adapted too."""
    adapters = Adapters("qwen2", tmp_path, speculation="ngram")
    for name in ("plain", "head"):
        adapters.add(name, **make_settings("qwen2")[name])
    rng = random.Random(8)
    requests = [
        (name, adapters.make_request(f"{name}{index}", 3 * make_prompt(rng, 6), name, max_tokens=48))
        for index in range(2)
        for name in adapters.models
    ]
    run_all(adapters.built.engine, [request for _, request in requests])
    assert adapters.built.engine.stats().num_accepted_tokens > 0
    for name, request in requests:
        assert request.output_token_ids == generate(adapters.models[name], request)


def test_seeded_sampling_and_choices_with_an_adapter(tmp_path: Path) -> None:
    """Choices of one prompt beside others equal the same choices alone."""
    adapters = Adapters("qwen2", tmp_path)
    adapters.add("one")
    prompt = make_prompt(random.Random(2), 15)

    def make(name: str | None, index: int) -> Request:
        fields = {"sampling": Sampling(seed=11), "choice_index": index, "eos_token_ids": NO_END}
        return adapters.make_request(f"{name}/{index}", prompt, name, **fields)

    together = [make(name, index) for index in range(3) for name in (None, "one")]
    run_all(adapters.built.engine, together)
    for request in together:
        name = "one" if request.adapter is not None else None
        alone = make(name, request.choice_index)
        run_all(adapters.built.engine, [alone])
        assert alone.output_token_ids == request.output_token_ids
    assert len({tuple(request.output_token_ids) for request in together}) == len(together)


def test_bfloat16_adds_in_float32_as_peft_does(tmp_path: Path) -> None:
    """Logits of the first token, close to peft's own: the model rounds otherwise in other batch shapes."""
    model = make_model("qwen2", torch.bfloat16)
    peft_model = make_adapter(model, tmp_path, lora_alpha=8)
    built = build_engine(copy.deepcopy(model), make_config())
    prompt = make_prompt(random.Random(4), 12)
    sampling = Sampling(seed=0, temperature=0.0, top_logprobs=20)
    request = make_request("r", prompt, adapter=read(built, tmp_path), sampling=sampling, max_tokens=1)
    (output,) = run_all(built.engine, [request])
    with torch.inference_mode():
        logits_V = peft_model(torch.tensor([prompt])).logits[0, -1].float()
    expected = torch.log_softmax(logits_V, dim=-1)[output.logprobs.top_token_ids]
    assert torch.allclose(torch.tensor(output.logprobs.top_logprobs), expected, atol=0.25)


class RoutedMLP(torch.nn.Module):
    """Two experts that are ordinary linear layers, each for some of the tokens, as a repository's own code has them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(9)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(size, size, bias=False) for _ in range(2))
        for expert in self.experts:
            expert.weight.data = 0.3 * torch.randn(size, size, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, is_first = x.flatten(0, 1), x.flatten(0, 1)[:, 0] > 0
        out = torch.empty_like(rows)
        for expert, chosen in zip(self.experts, (is_first, ~is_first), strict=True):
            if chosen.any():
                out[chosen] = expert(rows[chosen])
        return out.view_as(x)


def test_layers_that_do_not_see_all_tokens_are_refused(tmp_path: Path) -> None:
    model = copy.deepcopy(make_model("qwen2"))
    for layer in model.model.layers:
        layer.mlp = RoutedMLP(model.config.hidden_size)
    built = build_engine(copy.deepcopy(model), make_config())
    assert isinstance(built.engine, PagedEngine), built.reason
    make_adapter(model, tmp_path / "experts", target_modules=["experts.0"])
    with pytest.raises(AdapterError, match=r"experts\.0', which does not see all tokens"):
        read(built, tmp_path / "experts")
    attention = make_adapter(model, tmp_path / "attention", target_modules=["o_proj"])
    request = make_request("r", make_prompt(random.Random(0), 9), adapter=read(built, tmp_path / "attention"))
    run_all(built.engine, [request])
    assert request.output_token_ids == generate(attention, request)


@pytest.mark.parametrize("engine", ["paged", "fallback"])
def test_pictures_with_adapters_of_text_and_vision_layers(engine: str, tmp_path: Path) -> None:
    """A prompt with a picture and one without, each with and without the adapter, in one batch."""
    family = "llava"
    base = make_vision_model(family)
    adapted = make_adapter(base, tmp_path, target_modules=["q_proj", "v_proj", "fc1", "up_proj"])
    assert any("vision" in name for name, _ in adapted.named_parameters() if "lora_" in name)
    config = make_config(max_model_len=200, num_blocks=120, engine=engine)
    built = build_engine(copy.deepcopy(base), config, make_reader(family).sample)
    assert built.kind == engine, built.reason
    weights = read(built, tmp_path)
    scenes = [Scene(family, ["What is it? ", (1, (24, 24)), " Say."]), Scene(family, ["Only text."])]
    requests = []
    for index, scene in enumerate(scenes):
        for adapter in (None, weights):
            fields = {"max_tokens": 10, "eos_token_ids": NO_END, "cache_salt": str(adapter is None)}
            requests.append((scene, scene.make_request(f"{index}{adapter}", adapter=adapter, **fields)))
    run_all(built.engine, [request for _, request in requests])
    for scene, request in requests:
        model = adapted if request.adapter is not None else base
        assert request.output_token_ids == scene.generate(request, model)


def test_an_adapter_without_room_fails_its_own_request(tmp_path: Path) -> None:
    """Where the weights cannot be brought to the model: these take more than any machine has."""
    adapters = Adapters("qwen2", tmp_path)
    weights = adapters.add("one")
    huge = torch.zeros(1, 1, dtype=torch.float16).expand(2**60, 1)
    weights.layers["model.layers.0.self_attn.q_proj"] = LowRank(huge, huge, 1.0)
    requests = [adapters.make_request(str(name), [5, 6, 7], name) for name in (None, "one")]
    outputs = run_all(adapters.built.engine, requests)
    assert [output.request for output in outputs if output.error] == [requests[1]]
    assert requests[0].output_token_ids == generate(adapters.base, requests[0])
