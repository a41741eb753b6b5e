"""The engine thread: nothing submitted is ever left without an end."""

import queue
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from gpu_worker.engine.base import EngineStats
from gpu_worker.engine.core import STEP_FAILED, STOPPED, EngineLoop, EngineStoppedError
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import TokenOutput
from tests.worker.engine.driving import make_engine, make_prompt, make_request, run_all

TIMEOUT_S = 20
PROMPT = make_prompt(random.Random(5), 9)


class Delivered:
    """Collects what a loop delivers, and waits for the ends of requests."""

    def __init__(self) -> None:
        self.stats: list[EngineStats] = []
        self.threads: set[str] = set()
        self._outputs: queue.SimpleQueue[TokenOutput] = queue.SimpleQueue()

    def __call__(self, outputs: list[TokenOutput], stats: EngineStats) -> None:
        self.threads.add(threading.current_thread().name)
        self.stats.append(stats)
        for output in outputs:
            self._outputs.put(output)

    def next(self) -> TokenOutput:
        return self._outputs.get(timeout=TIMEOUT_S)

    def wait_for_ends(self, count: int) -> dict[str, TokenOutput]:
        ends: dict[str, TokenOutput] = {}
        while len(ends) < count:
            output = self.next()
            if output.finish_reason is not None or output.error is not None:
                assert output.request.id not in ends, "a request ended twice"
                ends[output.request.id] = output
        return ends


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[EngineLoop, Delivered]]]:
    loops: list[EngineLoop] = []

    def start_loop(load: Callable[[], PagedEngine] = lambda: make_engine("qwen2")) -> tuple[EngineLoop, Delivered]:
        delivered = Delivered()
        loop = EngineLoop(load, delivered)
        loops.append(loop)
        loop.start()
        return loop, delivered

    yield start_loop
    for loop in loops:
        loop.stop(TIMEOUT_S)


def test_requests_of_many_threads_are_answered_in_one(start: Callable[..., tuple[EngineLoop, Delivered]]) -> None:
    loop, delivered = start()

    def submit(index: int) -> None:
        for part in range(4):
            loop.submit(make_request(f"{index}-{part}", list(PROMPT)))

    threads = [threading.Thread(target=submit, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    ends = delivered.wait_for_ends(16)
    expected = make_request("alone", list(PROMPT))
    run_all(make_engine("qwen2"), [expected])
    assert all(end.request.output_token_ids == expected.output_token_ids for end in ends.values())
    assert delivered.threads == {"engine"}
    assert delivered.stats[-1].num_steps > 0


def test_an_abort_is_delivered_and_frees_the_blocks(start: Callable[..., tuple[EngineLoop, Delivered]]) -> None:
    loop, delivered = start()
    loop.submit(make_request("long", list(PROMPT), max_tokens=80, eos_token_ids=frozenset()))
    delivered.next()
    loop.abort("long")
    loop.abort("unknown")
    assert delivered.wait_for_ends(1)["long"].finish_reason == "abort"
    loop.stop(TIMEOUT_S)
    assert delivered.stats[-1].free_blocks == delivered.stats[-1].num_blocks


def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(
    start: Callable[..., tuple[EngineLoop, Delivered]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine("qwen2")
    forward = engine._runner.forward
    failures = iter([True])

    def fail_once(batch: object) -> object:
        if next(failures, False):
            raise RuntimeError("out of memory")
        return forward(batch)

    monkeypatch.setattr(engine._runner, "forward", fail_once)
    loop, delivered = start(lambda: engine)
    loop.submit(make_request("unlucky", list(PROMPT)))
    assert delivered.wait_for_ends(1)["unlucky"].error == STEP_FAILED
    loop.submit(make_request("lucky", list(PROMPT)))
    assert delivered.wait_for_ends(1)["lucky"].error is None
    engine.check_integrity()


def test_an_engine_that_cannot_be_reset_ends_the_loop(
    start: Callable[..., tuple[EngineLoop, Delivered]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine("qwen2")

    def fail(*_: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine, "step", fail)
    monkeypatch.setattr(engine, "reset", fail)
    loop, _ = start(lambda: engine)
    loop.submit(make_request("lost", list(PROMPT)))
    assert str(loop.ended.result(TIMEOUT_S)) == "the device is gone"
    with pytest.raises(EngineStoppedError):
        loop.submit(make_request("late", list(PROMPT)))


def test_stopping_fails_what_still_runs(start: Callable[..., tuple[EngineLoop, Delivered]]) -> None:
    loop, delivered = start()
    loop.submit(make_request("running", list(PROMPT), max_tokens=80, eos_token_ids=frozenset()))
    delivered.next()
    loop.stop(TIMEOUT_S)
    end = delivered.wait_for_ends(1)["running"]
    assert end.error == STOPPED or end.finish_reason == "length"
    assert loop.ended.result(TIMEOUT_S) is None
    with pytest.raises(EngineStoppedError):
        loop.submit(make_request("late", list(PROMPT)))


def test_a_load_that_fails_is_reported_and_fails_what_was_submitted(
    start: Callable[..., tuple[EngineLoop, Delivered]],
) -> None:
    may_fail = threading.Event()

    def load() -> PagedEngine:
        may_fail.wait(TIMEOUT_S)
        raise ValueError("no such model")

    loop, delivered = start(load)
    loop.submit(make_request("early", list(PROMPT)))
    may_fail.set()
    with pytest.raises(ValueError, match="no such model"):
        loop.loaded.result(TIMEOUT_S)
    assert delivered.wait_for_ends(1)["early"].error == STOPPED


def test_an_idle_loop_does_not_step(start: Callable[..., tuple[EngineLoop, Delivered]]) -> None:
    loop, delivered = start()
    loop.submit(make_request("only", list(PROMPT), max_tokens=3, eos_token_ids=frozenset()))
    delivered.wait_for_ends(1)
    loop.stop(TIMEOUT_S)
    assert delivered.stats[-1].num_steps == 3
