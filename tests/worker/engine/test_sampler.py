"""The sampler against plain re-statements of what its parameters mean."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpu_worker.engine.request import Request
from gpu_worker.engine.sampler import Sampler, draw_uniform
from gpu_worker.protocol import Sampling
from tests.worker.engine.driving import make_engine, make_prompt, make_request, run_all

VOCAB = 300  # more than the sampler's first look


def make_row(sampling: Sampling, **fields: object) -> Request:
    return make_request("row", [5, 6, 7], **({"sampling": sampling} | fields))


def sample_often(logits_V: torch.Tensor, sampling: Sampling, times: int, **fields: object) -> torch.Tensor:
    """Frequencies [V] over `times` independent choices."""
    rows = [make_row(sampling, choice_index=index, **fields) for index in range(times)]
    tokens = Sampler().sample(logits_V.expand(times, -1).clone(), rows)
    return torch.bincount(torch.tensor([token.token_id for token in tokens]), minlength=len(logits_V)) / times


def filter_like_transformers(logits_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The distribution [V] of transformers' own warpers."""
    ids, scores = torch.tensor([[5, 6, 7]]), logits_V[None].clone()
    scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)
    scores = TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(ids, scores)
    return scores.softmax(-1)[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        Sampling(seed=1, temperature=0.6),
        Sampling(seed=1, top_k=7),
        Sampling(seed=1, top_k=290),
        Sampling(seed=1, top_p=0.0),
        Sampling(seed=1, top_p=0.5),
        Sampling(seed=1, temperature=3.0, top_p=0.999),
        Sampling(seed=1, min_p=0.2),
        Sampling(seed=1, temperature=9.0, min_p=0.01),
        Sampling(seed=1, top_k=20, top_p=0.7, min_p=0.05, temperature=1.5, repetition_penalty=1.8),
    ],
    ids=str,
)
def test_distribution_is_that_of_transformers(sampling: Sampling) -> None:
    logits_V = torch.randn(VOCAB, generator=torch.Generator().manual_seed(0)) * 2
    expected = filter_like_transformers(logits_V, sampling)
    times = 4000
    actual = sample_often(logits_V, sampling, times)
    assert not (actual[expected == 0] > 0).any(), "a filtered token was chosen"
    deviation = (actual - expected).abs() / (expected * (1 - expected) / times).sqrt().clamp_min(1e-4)
    assert deviation.max() < 5.5


def test_random_numbers_are_uniform_and_depend_on_every_counter() -> None:
    draws = torch.tensor([draw_uniform(3, choice, position) for choice in range(20) for position in range(500)])
    assert 0 <= draws.min() < draws.max() < 1
    counts = torch.histc(draws, bins=20, min=0, max=1)
    assert ((counts - 500).abs() < 110).all()
    assert len({draw_uniform(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**63 - 1, 0, 0)]}) == 5


samplings = st.builds(
    Sampling,
    seed=st.integers(0, 2**63 - 1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_p=st.sampled_from([1.0, 0.9, 0.2]),
    top_k=st.sampled_from([0, 1, 5, 280]),
    min_p=st.sampled_from([0.0, 0.1]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.sampled_from([None, {3: 5.0, 9: -100.0}]),
    min_tokens=st.sampled_from([0, 50]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(samplings, min_size=2, max_size=8), st.integers(0, 1000))
def test_a_row_does_not_depend_on_its_neighbours(batch: list[Sampling], seed: int) -> None:
    rng = random.Random(seed)
    logits_RV = torch.randn(len(batch), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    outputs = [[rng.randrange(VOCAB) for _ in range(rng.choice([0, 1, 30]))] for _ in batch]

    def make_rows() -> list[Request]:
        return [
            make_request(str(index), [4, 8, 15], sampling=sampling, output_token_ids=list(outputs[index]))
            for index, sampling in enumerate(batch)
        ]

    together = Sampler().sample(logits_RV.clone(), make_rows())
    alone = [Sampler().sample(logits_RV[i : i + 1].clone(), [row])[0] for i, row in enumerate(make_rows())]
    assert together == alone


def test_presence_and_frequency_count_output_tokens_only() -> None:
    logits_V = torch.zeros(10)
    logits_V[6], logits_V[7], logits_V[8] = 3.0, 2.9, 2.8
    sampling = Sampling(seed=0, temperature=0.0, frequency_penalty=0.1, presence_penalty=0.05)
    expected = {(): 6, (6,): 7, (6, 7): 6, (6, 6): 7, (6, 6, 7, 7): 8, (6, 6, 7, 7, 8): 6}
    for output, token_id in expected.items():
        row = make_row(sampling, output_token_ids=list(output))
        assert Sampler().sample(logits_V[None].clone(), [row])[0].token_id == token_id, output


def test_penalties_count_across_steps() -> None:
    """The sampler's running counts equal a fresh count of the same lists."""
    rng = random.Random(0)
    sampling = Sampling(seed=4, temperature=0.0, repetition_penalty=1.2, frequency_penalty=0.7, presence_penalty=0.2)
    kept, row = Sampler(), make_row(sampling)
    for step in range(40):
        logits_V = torch.randn(20, generator=torch.Generator().manual_seed(step))
        fresh_row = make_row(sampling, output_token_ids=list(row.output_token_ids))
        assert kept.sample(logits_V[None].clone(), [row]) == Sampler().sample(logits_V[None].clone(), [fresh_row])
        row.output_token_ids += [rng.randrange(20) for _ in range(rng.choice([1, 1, 3]))]


def test_logit_bias_forces_and_bans() -> None:
    logits_V = torch.arange(10.0)
    assert sample_often(logits_V, Sampling(seed=0, logit_bias={2: 100.0}), 50)[2] == 1
    assert sample_often(logits_V, Sampling(seed=0, logit_bias={9: -100.0}), 50)[9] == 0


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits_V = torch.randn(VOCAB, generator=torch.Generator().manual_seed(1))
    expected = logits_V.log_softmax(-1)
    sampling = Sampling(seed=0, temperature=0.5, top_k=1, logit_bias={7: 100.0}, top_logprobs=3)
    token = Sampler().sample(logits_V[None].clone(), [make_row(sampling)])[0]
    assert token.token_id == 7
    assert token.logprobs.logprob == pytest.approx(float(expected[7]))
    assert token.logprobs.top_token_ids == expected.topk(3).indices.tolist()
    assert token.logprobs.top_logprobs == pytest.approx(expected.topk(3).values.tolist())
    only_chosen = Sampler().sample(logits_V[None].clone(), [make_row(Sampling(seed=0, top_logprobs=0))])[0]
    assert only_chosen.logprobs.top_token_ids == []


def test_a_tiny_temperature_is_greedy() -> None:
    logits_V = torch.randn(VOCAB, generator=torch.Generator().manual_seed(2))
    for temperature in (1e-5, 1e-30, 1e-300):
        assert sample_often(logits_V, Sampling(seed=0, temperature=temperature), 20)[logits_V.argmax()] == 1


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_numbers_get_no_token(poison: float) -> None:
    logits_RV = torch.randn(3, 10)
    logits_RV[1] = poison
    rows = [make_row(Sampling(seed=0, temperature=t)) for t in (0.0, 1.0, 1.0)]
    tokens = Sampler().sample(logits_RV, rows)
    assert [token is None for token in tokens] == [False, True, False]


def test_sampled_answers_are_equal_alone_and_in_a_batch() -> None:
    rng = random.Random(11)
    prompts = [make_prompt(rng, rng.choice([2, 9, 30])) for _ in range(10)]
    varied = [
        Sampling(seed=i, temperature=1.2, top_p=[1.0, 0.8][i % 2], top_k=[0, 20][i // 5], presence_penalty=i % 3 / 2)
        for i in range(10)
    ]

    def make_all() -> list[Request]:
        return [make_request(str(i), list(prompts[i]), sampling=varied[i], max_tokens=16) for i in range(10)]

    alone, together = make_all(), make_all()
    engine = make_engine("llama")
    for request in alone:
        run_all(engine, [request])
    run_all(make_engine("llama", num_blocks=24), together)
    assert [request.output_token_ids for request in alone] == [request.output_token_ids for request in together]
    assert sum(request.num_preemptions for request in together) > 0
