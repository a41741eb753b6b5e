"""Which block of the KV cache belongs to whom, and which blocks hold a known prefix. It knows no tensors.

A block is in exactly one of three states:

    free     never used, or its content is worth nothing
    held     in the block table of one or more running requests (`ref_count` of them)
    cached   held by nobody, kept because a later prompt may start with its tokens

Full blocks are entered in a trie: the key of a block is (its parent block, its token ids, the pictures that these
stand for), so a match compares the tokens themselves and, through the parent, all tokens before them. A request
that holds a block holds its whole path, hence a cached block never has a held descendant, and releasing leaf first
puts every descendant ahead of its ancestors in the eviction order.
"""

from collections import OrderedDict

from gpu_worker.engine.integrity import require
from gpu_worker.engine.media import MediaSpan
from gpu_worker.engine.request import Request

# The parent of a first block is the request's cache salt; of any other block, a block id.
Parent = str | int
PrefixKey = tuple[Parent, tuple[int, ...], tuple[MediaSpan, ...]]


class BlockManager:
    """Hands out, shares and takes back blocks. Not thread-safe: the engine thread owns it."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.has_prefix_cache = prefix_cache
        # A stack: the block freed last is the one handed out next, so that a quiet service touches little memory.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._ref_counts = [0] * num_blocks
        self._key_of: dict[int, PrefixKey] = {}
        self._block_of: dict[PrefixKey, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # held by nobody; first out first

    @property
    def num_free_blocks(self) -> int:
        """Blocks that could be handed out now, cached ones included."""
        return len(self._free) + len(self._cached)

    def count_missing_blocks(self, request: Request, num_drafts: int = 0) -> int:
        """Blocks a running request still needs to hold all its tokens, and so many guesses behind them."""
        return self._blocks_for(request.num_tokens + num_drafts) - len(request.block_ids)

    def match_prefix(self, request: Request) -> list[int]:
        """The longest known path of its tokens. One token at least is left to compute, or there would be no logits.

        A path that ends before the prompt's last picture is worth nothing: the pictures are computed together.
        """
        matched: list[int] = []
        if self.has_prefix_cache and not request.wants_prompt_logprobs:
            parent: Parent = request.cache_salt
            for index in range((request.num_tokens - 1) // self.block_size):
                block = self._block_of.get(self._key(request, index, parent))
                if block is None:
                    break
                matched.append(block)
                parent = block
        if request.media is not None and len(matched) * self.block_size < request.media.end:
            return []
        return matched

    def allocate(self, request: Request, prefix: list[int], *, num_spare: int = 0) -> bool:
        """Give a waiting request the blocks of all its tokens, the known ones (from `match_prefix`) first.

        On success sets `block_ids` and `num_computed_tokens` and returns True. Returns False and changes nothing
        when that would leave fewer than `num_spare` blocks free.
        """
        if not self.fits(request, prefix, num_spare):
            return False
        for block in prefix:
            self._hold(block)
        num_new = self._blocks_for(request.num_tokens) - len(prefix)
        request.block_ids = prefix + [self._take() for _ in range(num_new)]
        request.num_computed_tokens = len(prefix) * self.block_size
        return True

    def fits(self, request: Request, prefix: list[int], num_spare: int) -> bool:
        """Whether a waiting request could be given its blocks and `num_spare` would still be free."""
        num_revived = sum(1 for block in prefix if self._ref_counts[block] == 0)
        num_new = self._blocks_for(request.num_tokens) - len(prefix)
        return self.num_free_blocks - num_revived - num_new >= num_spare

    def grow(self, request: Request, num_drafts: int = 0) -> bool:
        """Give a running request the blocks its newest tokens need. False, and no change, when none are left."""
        num_missing = self.count_missing_blocks(request, num_drafts)
        if num_missing > self.num_free_blocks:
            return False
        request.block_ids.extend(self._take() for _ in range(num_missing))
        return True

    def advance(self, request: Request, num_tokens: int) -> None:
        """Note that keys and values of the next `num_tokens` are in the cache, and enter blocks that became full.

        A block whose tokens are known already is given back and the known one held in its place: so all holders
        of a prefix hold the same path, which the eviction order relies on.
        """
        first = request.num_computed_tokens // self.block_size
        request.num_computed_tokens += num_tokens
        if not self.has_prefix_cache:
            return
        for index in range(first, request.num_computed_tokens // self.block_size):
            key = self._key(request, index, request.block_ids[index - 1] if index else request.cache_salt)
            block = request.block_ids[index]
            known = self._block_of.get(key)
            if known is None:
                self._block_of[key] = block
                self._key_of[block] = key
            else:
                self._hold(known)
                request.block_ids[index] = known
                self._drop(block)

    def trim(self, request: Request) -> None:
        """Take back the blocks behind its last token, where guesses lay that turned out wrong."""
        while len(request.block_ids) > self._blocks_for(request.num_tokens):
            self._drop(request.block_ids.pop())

    def release(self, request: Request) -> None:
        """Take back all blocks of a request. Full ones stay cached, its last ones to be evicted first."""
        for block in reversed(request.block_ids):
            self._drop(block)
        request.block_ids = []
        request.num_computed_tokens = 0

    def forget_cached(self) -> None:
        """Evict every block that nobody holds: what it contains is not to be trusted or wanted any more."""
        while self._cached:
            self._free.append(self._evict())

    def select_free(self, block_ids: list[int]) -> list[int]:
        """Those of the blocks that nobody holds."""
        return [block for block in block_ids if self._ref_counts[block] == 0]

    def check_integrity(self, running: list[Request]) -> None:
        """Raise IntegrityError if an invariant is broken, given the requests that hold blocks."""
        held: dict[int, int] = {}
        for request in running:
            require(len(set(request.block_ids)) == len(request.block_ids), f"{request.id} holds a block twice")
            for block in request.block_ids:
                held[block] = held.get(block, 0) + 1
        counted = {block: count for block, count in enumerate(self._ref_counts) if count}
        require(counted == held, "the counts of holders are wrong")
        free, cached = set(self._free), set(self._cached)
        require(len(free) == len(self._free), "a block is free twice")
        require(free | cached | held.keys() == set(range(self.num_blocks)), "a block is lost")
        require(len(free) + len(cached) + len(held) == self.num_blocks, "a block is in two states")
        require({key: block for block, key in self._key_of.items()} == self._block_of, "the trie has two minds")
        require(cached <= self._key_of.keys(), "a cached block has no key")
        require(not free & self._key_of.keys(), "a free block has a key")
        order = {block: rank for rank, block in enumerate(self._cached)}
        for block, (parent, *_) in self._key_of.items():
            if isinstance(parent, int):
                require(parent in self._key_of, f"block {block} outlived its parent")
                if parent in order:
                    require(order.get(block, self.num_blocks) < order[parent], f"block {parent} goes before its leaf")

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _key(self, request: Request, index: int, parent: Parent) -> PrefixKey:
        start = index * self.block_size
        end = start + self.block_size
        spans = request.media.find_spans(start, end) if request.media is not None else ()
        return parent, tuple(request.get_token_ids(start, end)), spans

    def _hold(self, block: int) -> None:
        if self._ref_counts[block] == 0:
            del self._cached[block]
        self._ref_counts[block] += 1

    def _drop(self, block: int) -> None:
        self._ref_counts[block] -= 1
        if self._ref_counts[block] == 0:
            if block in self._key_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def _take(self) -> int:
        block = self._free.pop() if self._free else self._evict()
        self._ref_counts[block] = 1
        return block

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        del self._block_of[self._key_of.pop(block)]
        return block
