"""The pooling engine: batches of about equal length, fair turns, and ends."""

import math

import pytest
import torch

from gpu_worker.tasks.pooling.engine import PoolingEngine
from gpu_worker.tasks.pooling.request import PoolingOutput, PoolingRequest, RowOptions, Sequence


class FirstTokens:
    """In the place of a model: a row is the first token's id, twice. Notes what it was given."""

    can_pad = True

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def run(self, sequences: list[Sequence]) -> torch.Tensor:
        self.batches.append([len(sequence.token_ids) for sequence in sequences])
        return torch.tensor([[float(sequence.token_ids[0])] * 2 for sequence in sequences])


@pytest.fixture
def model() -> FirstTokens:
    return FirstTokens()


@pytest.fixture
def engine(model: FirstTokens) -> PoolingEngine:
    return PoolingEngine(model, max_model_len=100, max_num_seqs=4, max_num_batched_tokens=64)


def make_request(name: str, *lengths: int, first: float = 7.0, **fields: object) -> PoolingRequest:
    sequences = [Sequence([first] * length, [0] * length) for length in lengths]  # type: ignore[list-item]
    return PoolingRequest(name, sequences, RowOptions(), **fields)  # type: ignore[arg-type]


def run(engine: PoolingEngine, *requests: PoolingRequest) -> list[PoolingOutput]:
    for request in requests:
        engine.add(request)
    outputs: list[PoolingOutput] = []
    while engine.has_work():
        outputs += engine.step()
    return outputs


def test_batches_hold_inputs_of_about_equal_length_up_to_the_budget(engine: PoolingEngine, model: FirstTokens) -> None:
    outputs = run(engine, make_request("a", 3, 30, 2, 100, 16, 31, 15, 2, 2, 2, 2))
    assert model.batches == [[100], [31, 30], [16, 15], [3, 2, 2, 2], [2, 2]]
    assert sorted(index for output in outputs for index in output.indices) == list(range(11))
    assert [output.finish_reason for output in outputs] == [None] * 4 + ["stop"]


def test_without_padding_lengths_are_equal(engine: PoolingEngine, model: FirstTokens) -> None:
    model.can_pad = False
    run(engine, make_request("a", 3, 2, 3, 2, 4))
    assert model.batches == [[4], [3, 3], [2, 2]]


def test_requests_share_a_batch_and_pay_for_their_part(engine: PoolingEngine, model: FirstTokens) -> None:
    requests = [make_request(name, length, user=name) for name, length in (("a", 10), ("b", 9), ("c", 8))]
    outputs = run(engine, *requests)
    assert model.batches == [[10, 9, 8]]
    assert [output.finish_reason for output in outputs] == ["stop"] * 3
    assert requests[0].device_s > requests[2].device_s > 0


def test_a_small_request_does_not_wait_for_anothers_large_one(engine: PoolingEngine, model: FirstTokens) -> None:
    engine.add(make_request("large", *[60] * 50, user="one"))
    engine.step()
    engine.add(make_request("small", 5, user="other"))
    assert [output.request.id for output in (*engine.step(), *engine.step())].count("small") == 1
    assert engine.stats().num_running == 1


def test_users_take_turns(engine: PoolingEngine, model: FirstTokens) -> None:
    for user in ("one", "other"):
        engine.add(make_request(user, *[60] * 20, user=user))
    outputs = [output for _ in range(20) for output in engine.step()]
    assert [output.request.id for output in outputs].count("one") == 10


def test_abort_frees_the_request_between_batches(engine: PoolingEngine) -> None:
    engine.add(make_request("a", *[60] * 9))
    engine.add(make_request("b", 60))
    engine.step()
    assert engine.queue_position("a") is None
    assert engine.queue_position("b") == 1
    aborted = engine.abort("a")
    assert aborted is not None
    assert (aborted.finish_reason, aborted.indices) == ("abort", [])
    assert engine.abort("a") is None
    assert [output.request.id for output in engine.step()] == ["b"]
    assert not engine.has_work()


def test_values_that_are_no_numbers_fail_their_request_alone(engine: PoolingEngine) -> None:
    outputs = run(engine, make_request("bad", 5, 60, first=math.nan), make_request("good", 60))
    by_id = {output.request.id: output for output in outputs}
    assert "not numbers" in (by_id["bad"].error or "")
    assert by_id["good"].finish_reason == "stop"
    assert len(outputs) == 2


def test_reset_fails_everything(engine: PoolingEngine) -> None:
    engine.add(make_request("a", 60, 60))
    engine.step()
    assert [output.error for output in engine.reset("broken")] == ["broken"]
    assert not engine.has_work()
    assert engine.stats().num_waiting == 0
