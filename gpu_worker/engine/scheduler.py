"""Which tokens of which requests the next step computes. It knows no tensors and no clock.

Running requests come first, oldest first: one token each for those that decode; then prompts while the token budget
lasts, those already begun and those that wait alike in the order of fair share. A request gets the blocks of its
whole prompt when it is admitted and one more whenever its answer fills the last; if none is left, the youngest
running request is preempted: it loses its blocks, goes back to the front of its user's queue, and is computed again
later (mostly from the prefix cache). The oldest can always go on, because the pool holds at least one request of full
length. Where seats or blocks are taken, a user with many running requests also makes room for one with few.

A prompt with pictures is one chunk, whole and alone in its step; between two such steps the others get theirs.
"""

from bisect import insort
from collections import Counter
from typing import NamedTuple

from gpu_worker.engine.block_manager import BlockManager
from gpu_worker.engine.integrity import require
from gpu_worker.engine.media import MediaSpan
from gpu_worker.engine.request import MAX_SCORED_TOKENS, Request, RequestStatus
from gpu_worker.engine.speculation import Drafter
from gpu_worker.engine.waiting import WaitingQueue

LONG_PROMPT_TOKENS = 256  # to be computed: from here on a prompt is paced


class Chunk(NamedTuple):
    """The next `num_tokens` of a request after its `num_computed_tokens`: one token and the guesses behind it (a
    decode), or more of its prompt."""

    request: Request
    num_tokens: int

    @property
    def is_decode(self) -> bool:
        """Whether its tokens are attended one by one."""
        return self.num_tokens == 1 + len(self.request.draft_token_ids)


def _age(request: Request) -> tuple[int, float, str]:
    return request.priority, request.arrival_s, request.id


class Scheduler:
    """Owns the waiting queue, the running list and the blocks. Not thread-safe: the engine thread owns it."""

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        long_prompt_tokens: int = LONG_PROMPT_TOKENS,
        drafter: Drafter | None = None,
    ) -> None:
        self.blocks = blocks
        self.waiting = WaitingQueue()
        self.running: list[Request] = []  # oldest first, by `_age`
        self._max_num_seqs = max_num_seqs
        # Every running request must be able to decode in one step.
        self._max_num_batched_tokens = max(max_num_batched_tokens, max_num_seqs)
        self._long_prompt_tokens = long_prompt_tokens
        self.drafter = drafter
        self._had_media_turn = False

    def schedule(self, pace: int | None = None) -> list[Chunk]:
        """The chunks of the next step; decodes come before longer chunks.

        Where somebody decodes, long prompts get at most `pace` tokens together, so that the others' next tokens do
        not wait for them. Short ones are begun at once, together at most as many tokens as the longest of them;
        where more wait for a free seat than decode, so many times as many.
        """
        self._make_room()
        chunks, num_preempted = self._schedule_decodes()
        if (whole := self._take_media_turn()) is not None:
            return [whole]
        if num_preempted == 0:
            chunks = self._add_drafts(chunks)
        budget = self._max_num_batched_tokens - sum(chunk.num_tokens for chunk in chunks)
        long_budget = budget
        if pace is not None and chunks:
            budget, long_budget = min(budget, max(pace, self._find_short_budget(len(chunks)))), pace
        # Prompts, begun or waiting, in the order of fair share: a long one of somebody else does not go first for ever.
        begun = [request for request in self.running if _num_pending(request) > 1]
        begun.sort(key=self.waiting.rank, reverse=True)
        may_admit = num_preempted == 0
        while budget > 0 and (begun or may_admit):
            newcomer = self.waiting.peek() if may_admit and len(self.running) < self._max_num_seqs else None
            may_admit = newcomer is not None
            if newcomer is None or (begun and self.waiting.rank(begun[-1]) < self.waiting.rank(newcomer)):
                request = begun.pop() if begun else None
            else:
                may_admit = self._admit(newcomer)
                request = newcomer if may_admit else None
            if request is not None:
                is_long = request.num_tokens - request.num_cached_tokens > self._long_prompt_tokens
                num_tokens = _append_chunk(chunks, request, min(budget, long_budget) if is_long else budget)
                budget -= num_tokens
                long_budget -= num_tokens if is_long else 0
        # The last token of a chunked or cached prompt is one token too, and is computed as a decode.
        chunks.sort(key=lambda chunk: not chunk.is_decode)
        return chunks

    def complete(self, chunks: list[Chunk]) -> None:
        """The forward pass over these chunks is done: their keys and values are in the cache, those of guesses with
        them, which do not count before `accept`."""
        for request, num_tokens in chunks:
            self.blocks.advance(request, num_tokens - len(request.draft_token_ids))

    def accept(self, request: Request) -> None:
        """The request's newest token is the one that was guessed."""
        self.blocks.advance(request, 1)

    def drop_drafts(self, request: Request) -> None:
        """The step is over: what was guessed is now a token of the request or nothing."""
        request.draft_token_ids = []
        if request.status is RequestStatus.RUNNING:
            self.blocks.trim(request)

    def remove(self, request: Request) -> None:
        """Take out a request, waiting or running, and take back its blocks at once."""
        if request.status is RequestStatus.RUNNING:
            self.running.remove(request)
            self.blocks.release(request)
        else:
            self.waiting.remove(request)

    def check_integrity(self) -> None:
        """Raise IntegrityError if an invariant of the running list or of the blocks is broken."""
        require(len(self.running) <= self._max_num_seqs, "too many requests run")
        require(self.running == sorted(self.running, key=_age), "the running list is out of order")
        require(all(r.status is RequestStatus.RUNNING for r in self.running), "a waiting request runs")
        require(all(r.status is RequestStatus.WAITING for r in self.waiting), "a running request waits")
        require(not any(r.block_ids for r in self.waiting), "a waiting request holds blocks")
        self.blocks.check_integrity(self.running)

    def _schedule_decodes(self) -> tuple[list[Chunk], int]:
        decodes: list[Chunk] = []
        num_preempted = 0
        index = 0
        while index < len(self.running):
            request = self.running[index]
            is_prefill = _num_pending(request) > 1 or request.has_pending_media
            if is_prefill or self.blocks.grow(request):
                if not is_prefill:
                    decodes.append(Chunk(request, 1))
                index += 1
            else:
                # Oldest first: whoever is preempted has not been scheduled in this step.
                self._preempt(self.running[-1])
                num_preempted += 1
        return decodes, num_preempted

    def _find_short_budget(self, num_decodes: int) -> int:
        """Tokens of short prompts beside decodes: the first token of one is worth as much as the next of another."""
        num_newcomers = min(len(self.waiting), self._max_num_seqs - len(self.running))
        return self._long_prompt_tokens * max(num_newcomers, num_decodes) // num_decodes

    def _add_drafts(self, decodes: list[Chunk]) -> list[Chunk]:
        """The decodes with guesses behind them, as far as half of the budget and the blocks that nobody holds go."""
        if self.drafter is None:
            return decodes
        left = (self._max_num_batched_tokens - len(decodes)) // 2
        chunks = []
        for request, _ in decodes:
            drafts = self.drafter.propose(request, num_decodes=len(decodes), most=left)
            while drafts and not self.blocks.grow(request, len(drafts)):
                drafts.pop()
            request.draft_token_ids = drafts
            left -= len(drafts)
            chunks.append(Chunk(request, 1 + len(drafts)))
        return chunks

    def _take_media_turn(self) -> Chunk | None:
        pending = [request for request in self.running if request.has_pending_media]
        has_others = len(pending) < len(self.running)
        self._had_media_turn = bool(pending) and not (self._had_media_turn and has_others)
        if not self._had_media_turn:
            return None
        first = min(pending, key=self.waiting.rank)
        return Chunk(first, len(first.prompt_token_ids))

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.blocks.release(request)
        request.status = RequestStatus.WAITING
        request.num_preemptions += 1
        self.waiting.push_front(request)

    def _make_room(self) -> None:
        """Preempt for the first waiting request, one a step, where it has a better right to run than others: it goes
        before batch work, and before a user who was served more and has more requests running for his weight."""
        newcomer = self.waiting.peek()
        if newcomer is None:
            return
        prefix = self.blocks.match_prefix(newcomer)
        if self._is_being_computed(newcomer, len(prefix) * self.blocks.block_size):
            return
        while len(self.running) >= self._max_num_seqs or not self.blocks.fits(newcomer, prefix, len(self.running)):
            victim = self._find_victim(newcomer)
            if victim is None:
                return
            self._preempt(victim)

    def _find_victim(self, newcomer: Request) -> Request | None:
        """The one to give way: of the lowest priority, of the user with most running for his weight, the youngest."""
        num_running = Counter(request.user for request in self.running)
        seats_then = (num_running[newcomer.user] + 1) / newcomer.weight
        rank = self.waiting.rank(newcomer)
        candidates = [
            request
            for request in self.running
            if request.priority > newcomer.priority
            or (self.waiting.rank(request)[:2] > rank[:2] and num_running[request.user] / request.weight > seats_then)
        ]
        return max(
            candidates, key=lambda r: (r.priority, num_running[r.user] / r.weight, r.arrival_s, r.id), default=None
        )

    def _admit(self, request: Request) -> bool:
        """Admit the first waiting request, or nobody: letting a smaller one pass would starve it."""
        prefix = self.blocks.match_prefix(request)
        if self._is_being_computed(request, len(prefix) * self.blocks.block_size):
            return False
        # Running requests will soon need a block each; without spare ones the newcomer would be preempted at once.
        if not self.blocks.allocate(request, prefix, num_spare=len(self.running)):
            return False
        self.waiting.remove(request)
        if request.num_preemptions == 0:
            request.num_cached_tokens = min(request.num_computed_tokens, len(request.prompt_token_ids))
            self.waiting.charge(request, request.num_tokens - request.num_computed_tokens)
        request.status = RequestStatus.RUNNING
        insort(self.running, request, key=_age)
        return True

    def _is_being_computed(self, request: Request, num_known: int) -> bool:
        """Whether a running request is about to compute the block this one would start with (`n` choices of one
        prompt arrive together): it waits, and finds the block in the cache. Prompt chunks of the other come first
        in the budget anyway, so hardly anything else could have been admitted meanwhile."""
        end = num_known + self.blocks.block_size
        if not self.blocks.has_prefix_cache or end >= request.num_tokens:
            return False
        wanted = request.get_token_ids(0, end)
        return any(
            other.cache_salt == request.cache_salt
            and _num_pending(other) > 1
            and other.num_computed_tokens < end <= other.num_tokens
            and other.get_token_ids(0, end) == wanted
            and _find_spans(other, end) == _find_spans(request, end)
            for other in self.running
        )


def _find_spans(request: Request, end: int) -> tuple[MediaSpan, ...]:
    return request.media.find_spans(0, end) if request.media is not None else ()


def _num_pending(request: Request) -> int:
    return request.num_tokens - request.num_computed_tokens


def _append_chunk(chunks: list[Chunk], request: Request, budget: int) -> int:
    if request.has_pending_media:
        return 0  # has a step of its own
    if request.wants_prompt_logprobs:
        num_scored = sum(chunk.num_tokens for chunk in chunks if chunk.request.wants_prompt_logprobs)
        budget = min(budget, MAX_SCORED_TOKENS - num_scored)
    num_tokens = max(min(_num_pending(request), budget), 0)
    if num_tokens > 0:
        chunks.append(Chunk(request, num_tokens))
    return num_tokens
