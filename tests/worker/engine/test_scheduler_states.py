"""Scheduler and block manager as a state machine: whatever happens in whatever order, the books stay whole."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gpu_worker.engine.block_manager import BlockManager
from gpu_worker.engine.request import Request, RequestStatus
from gpu_worker.engine.scheduler import Scheduler
from tests.worker.engine.driving import make_request

BLOCK_SIZE = 4
NUM_BLOCKS = 14
MAX_MODEL_LEN = NUM_BLOCKS * BLOCK_SIZE


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, steps, preempts and aborts in any order, with guesses that are right or wrong.

    Tokens come from a tiny alphabet, so prefixes meet often.
    """

    def __init__(self) -> None:
        super().__init__()
        self.guess: list[int] = []
        self.scheduler = Scheduler(
            BlockManager(NUM_BLOCKS, BLOCK_SIZE),
            max_num_seqs=4,
            max_num_batched_tokens=10,
            long_prompt_tokens=8,
            drafter=self,
        )
        self.live: dict[str, Request] = {}
        self.num_added = 0
        # What the cache holds, by slot: the tokens up to and with the one whose keys and values were written there.
        self.content: dict[int, tuple[str, tuple[int, ...]]] = {}

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=30),
        priority=st.integers(0, 1),
        user=st.sampled_from("ab"),
        salt=st.sampled_from(["", "x"]),
    )
    def add(self, prompt: list[int], priority: int, user: str, salt: str) -> None:
        self.num_added += 1
        request = make_request(
            str(self.num_added), prompt, priority=priority, user=user, cache_salt=salt, arrival_s=float(self.num_added)
        )
        self.live[request.id] = request
        self.scheduler.waiting.push(request)

    def propose(self, request: Request, *, num_decodes: int, most: int) -> list[int]:
        """As a drafter: the guess of this step, whatever it is worth."""
        return self.guess[: min(most, MAX_MODEL_LEN - request.num_tokens - 1)]

    @precondition(lambda self: self.live)
    @rule(
        tokens=st.lists(st.integers(0, 1), min_size=5, max_size=5),
        guess=st.lists(st.integers(0, 1), max_size=4),
        is_last=st.booleans(),
        pace=st.sampled_from([None, 1, 5]),
    )
    def step(self, tokens: list[int], guess: list[int], is_last: bool, pace: int | None) -> None:
        self.guess = guess
        chunks = self.scheduler.schedule(pace)
        assert chunks, "there is work, yet nothing was scheduled"
        assert sum(chunk.num_tokens for chunk in chunks) <= 10
        for request, num_tokens in chunks:
            self.check_past(request)
            for position in range(request.num_computed_tokens, request.num_computed_tokens + num_tokens):
                self.content[self.slot(request, position)] = self.history(request, position)
        self.scheduler.complete(chunks)
        for request, _ in chunks:
            if request.num_computed_tokens == request.num_tokens:
                self.sample(request, tokens, is_last)

    def sample(self, request: Request, tokens: list[int], is_last: bool) -> None:
        """One token, and the next after every guess that was right."""
        for depth, token in enumerate(tokens):
            request.output_token_ids.append(token)
            if is_last or request.num_tokens == MAX_MODEL_LEN:
                self.end(request)
            if request.draft_token_ids[depth : depth + 1] != [token] or request.id not in self.live:
                break
            self.scheduler.accept(request)
        self.scheduler.drop_drafts(request)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.end(self.live[data.draw(st.sampled_from(sorted(self.live)))])

    @precondition(lambda self: self.scheduler.running)
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        running = {request.id: request for request in self.scheduler.running}
        victim = running[data.draw(st.sampled_from(sorted(running)))]
        self.scheduler._preempt(victim)
        assert (victim.status, victim.num_computed_tokens) == (RequestStatus.WAITING, 0)

    @rule()
    def forget(self) -> None:
        self.scheduler.blocks.forget_cached()

    @invariant()
    def bookkeeping_is_whole(self) -> None:
        self.scheduler.check_integrity()
        if not self.live:
            assert self.scheduler.blocks.num_free_blocks == NUM_BLOCKS

    def check_past(self, request: Request) -> None:
        """Whatever the request takes for computed must be its own history, salt included."""
        for position in range(request.num_computed_tokens):
            assert self.content[self.slot(request, position)] == self.history(request, position)

    def end(self, request: Request) -> None:
        del self.live[request.id]
        self.scheduler.remove(request)
        self.scheduler.waiting.leave(request)
        request.status = RequestStatus.FINISHED

    @staticmethod
    def slot(request: Request, position: int) -> int:
        return request.block_ids[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE

    @staticmethod
    def history(request: Request, position: int) -> tuple[str, tuple[int, ...]]:
        tokens = request.get_token_ids(0, request.num_tokens) + request.draft_token_ids
        return request.cache_salt, tuple(tokens[: position + 1])


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
