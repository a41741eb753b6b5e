"""A real worker that guesses: several tokens a step, and the events are those of one token after the other.

Its model says a round of words for ever, so every guess is right, and stop strings stand inside of guesses.
"""

from collections.abc import AsyncIterator, Iterator

import pytest

from gpu_worker.protocol import Delta, Finished, ResumeChoice
from tests.chain_model import build_chain_model
from tests.worker.link import Answer, Link, complete, open_link
from tests.worker_process import WorkerProcess, run_worker

pytestmark = pytest.mark.slow  # real workers: seconds each

ROUND = [" one", " two", " three", " four", " five", " six", " seven", " eight"]
PROMPT = "".join(ROUND + ROUND[:3])
FORTY_TOKENS = (ROUND * 10)[3:43]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("round")
    build_chain_model(folder, "{{ messages[0].content }}", [[*ROUND, ROUND[0]]])
    with run_worker(folder, num_blocks=64, max_model_len=256, max_num_seqs=4, speculation="auto") as process:
        yield process


@pytest.fixture
async def link(worker: WorkerProcess) -> AsyncIterator[Link]:
    async with open_link(worker) as open_:
        yield open_


def count_accepted(worker: WorkerProcess) -> int:
    """As the worker's own statistics say."""
    stats = worker.get_health()[1]["stats"]
    assert stats["num_drafted_tokens"] >= stats["num_accepted_tokens"]
    accepted: int = stats["num_accepted_tokens"]
    return accepted


def check_tokens(answer: Answer) -> None:
    """Every delta brings what one token adds, and the usage counts all of them."""
    deltas = answer.of_type(Delta)
    assert all(len(delta.token_ids) <= 1 for delta in deltas)
    assert isinstance(answer.end, Finished)
    assert answer.end.usage.completion_tokens == sum(len(delta.token_ids) for delta in deltas)


async def test_an_answer_of_guesses_comes_token_by_token_in_few_frames(worker: WorkerProcess, link: Link) -> None:
    before = count_accepted(worker)
    num_frames = link.num_frames
    answer = await link.ask(complete("a", PROMPT, max_tokens=40, top_logprobs=1))
    check_tokens(answer)
    assert answer.join() == "".join(FORTY_TOKENS)
    assert len(answer.token_ids()) == 40
    assert [len(delta.logprobs or []) for delta in answer.of_type(Delta)] == [1] * 40
    assert count_accepted(worker) - before >= 30
    assert link.num_frames - num_frames < 20


@pytest.mark.parametrize("stop", ["six seven", "ven eight one t", " four", "eight one two three four five six"])
async def test_a_stop_string_inside_a_guess_ends_the_answer(link: Link, stop: str) -> None:
    answer = await link.ask(complete("s", PROMPT, max_tokens=100, stop=(stop,), min_tokens=10, n=2))
    check_tokens(answer)
    whole = "".join(ROUND * 10)[len(PROMPT) :]
    skipped = len("".join((ROUND * 10)[3:13]))  # stop strings count after min_tokens
    end = whole.index(stop, skipped)
    assert answer.join(0) == answer.join(1) == whole[:end]
    assert isinstance(answer.end, Finished)
    assert (answer.end.reason, answer.end.stop) == ("stop", stop)


@pytest.mark.parametrize("cut", [1, 9, 20])
async def test_an_answer_that_is_resumed_goes_on_with_guesses(worker: WorkerProcess, link: Link, cut: int) -> None:
    whole = (await link.ask(complete("w", PROMPT, max_tokens=40))).token_ids()
    before = count_accepted(worker)
    resume = [ResumeChoice(0, whole[:cut])]
    rest = await link.ask(complete("r", PROMPT, max_tokens=40, resume=resume))
    assert whole[:cut] + rest.token_ids() == whole
    assert count_accepted(worker) > before
