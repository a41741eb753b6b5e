"""What is in use of a quota, and whether one more request fits. Pure: knows no database, no Redis and no clock.

`stores/counters.lua` is the same in Redis; tests hold both to the same cases.

    second      ... 41    42    43 ... 101   102       a bucket for each second in which something was counted;
    requests         3     -     1       9     2       at 102.5 the window is what was counted after 41: one that
                     └ out └──── in the window ┘       was counted at 41.9 has left it a little late, never early
"""

import msgspec

WINDOW_S = 60
WARN_AT_PERCENT = 80


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A counter that a request counts for, and its limits."""

    counter: str
    period: str = ""  # of the budgets; empty: there are none
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    budget_tokens: int | None = None
    budget_nano: int | None = None

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit is one of tokens or of money."""
        return any(limit is not None for limit in (self.tokens_per_minute, self.budget_tokens, self.budget_nano))


class Need(msgspec.Struct, frozen=True):
    """What a request wants to hold: itself, and as many tokens as it can come to, with their price."""

    requests: int = 0
    tokens: int = 0
    nano: int = 0


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request for room. `seeds`: by counter, the tokens and the money that its period has seen already."""

    id: str
    claims: list[Claim]
    need: Need
    seeds: dict[str, tuple[int, int]] = {}


class Refusal(msgspec.Struct, frozen=True):
    """The limit that is met. `wait_s`: when it may be otherwise, None where that is not known."""

    position: int  # of the claim
    limit: str  # a field of Claim
    used: int
    wait_s: float | None = None
    held: int = 0  # of a budget: the part of `used` that requests hold which run now


class Standing(msgspec.Struct, frozen=True):
    """What is used of a counter, this request included. `newest_s`: how long ago the window last grew."""

    requests: int = 0
    tokens: int = 0
    newest_s: float = 0.0
    budget_tokens: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """`unseeded`: positions of claims whose counter knows nothing of its period yet; nothing was decided then."""

    refusal: Refusal | None = None
    unseeded: list[int] = []
    standings: list[Standing] = []


class BudgetWarning(msgspec.Struct, frozen=True):
    """A budget has come to WARN_AT_PERCENT, for the first time in its period."""

    counter: str
    period: str
    spent_tokens: int
    spent_nano: int


class Share(msgspec.Struct, kw_only=True):
    """What one request holds of one counter."""

    counter: str
    period: str
    requests_at: int = 0  # the seconds of the buckets
    tokens_at: int = 0
    requests: int = 0
    tokens: int = 0
    nano: int = 0
    budget_tokens: int | None = None
    budget_nano: int | None = None


class Counter(msgspec.Struct, kw_only=True):
    """One quota, or one person's share in it."""

    buckets: dict[int, tuple[int, int]] = {}  # second -> requests, tokens
    num_open: int = 0
    period: str = ""
    spent_tokens: int = 0
    held_tokens: int = 0
    spent_nano: int = 0
    held_nano: int = 0
    warned: str = ""  # the period of the last warning

    def drop_old(self, now_s: float) -> None:
        """Forget what has left the window."""
        self.buckets = {at: counts for at, counts in self.buckets.items() if at + WINDOW_S + 1 > now_s}

    def count(self) -> tuple[int, int]:
        """Requests and tokens in the window."""
        return sum(requests for requests, _ in self.buckets.values()), sum(
            tokens for _, tokens in self.buckets.values()
        )

    def begin_period(self, period: str, spent_tokens: int, spent_nano: int) -> None:
        """What was spent of it so far is said by the ledger. What older requests hold no longer counts."""
        self.period = period
        self.spent_tokens, self.spent_nano = spent_tokens, spent_nano
        self.held_tokens = self.held_nano = 0

    def find_refusal(self, claim: Claim, need: Need, now_s: float, position: int) -> Refusal | None:
        """Why the need does not fit, if it does not."""
        requests, tokens = self.count()
        for limit, used, held, wanted in (
            ("requests_per_minute", requests, 0, need.requests),
            ("tokens_per_minute", tokens, 0, need.tokens),
            ("max_concurrent", self.num_open, 0, need.requests),
            ("budget_tokens", self.spent_tokens, self.held_tokens, need.tokens),
            ("budget_nano", self.spent_nano, self.held_nano, need.nano),
        ):
            allowed = getattr(claim, limit)
            excess = 0 if allowed is None else used + held + wanted - allowed
            if wanted and excess > 0:
                return Refusal(position, limit, used + held, self._find_wait(limit, excess, now_s), held)
        return None

    def take(self, claim: Claim, need: Need, now_s: float, share: Share) -> None:
        """Hold it."""
        second = int(now_s)
        requests, tokens = self.buckets.get(second, (0, 0))
        self.buckets[second] = requests + need.requests, tokens + need.tokens
        self.num_open += need.requests
        if need.requests:
            share.requests, share.requests_at = need.requests, second
        if need.tokens:
            share.tokens, share.tokens_at, share.nano = need.tokens, second, need.nano
        if claim.period:
            self.held_tokens += need.tokens
            self.held_nano += need.nano

    def settle(self, share: Share, used: Need) -> BudgetWarning | None:
        """Give back what was not used. `used.requests` 0: the request never ran, and does not count."""
        self.num_open = max(0, self.num_open - share.requests)
        self._correct(share.requests_at, share.requests and used.requests - share.requests, 0)
        self._correct(share.tokens_at, 0, share.tokens and used.tokens - share.tokens)
        if not share.period or share.period != self.period:
            return None
        self.held_tokens -= min(share.tokens, self.held_tokens)
        self.held_nano -= min(share.nano, self.held_nano)
        self.spent_tokens += used.tokens
        self.spent_nano += used.nano
        if self.warned == self.period or not self._is_nearly_full(share):
            return None
        self.warned = self.period
        return BudgetWarning(share.counter, self.period, self.spent_tokens, self.spent_nano)

    def stand(self, now_s: float) -> Standing:
        """What is used now."""
        requests, tokens = self.count()
        newest_s = max(0.0, now_s - max(self.buckets, default=now_s - WINDOW_S))
        return Standing(requests, tokens, newest_s, self.spent_tokens + self.held_tokens)

    def _correct(self, second: int, requests: int, tokens: int) -> None:
        if second in self.buckets:
            known_requests, known_tokens = self.buckets[second]
            self.buckets[second] = known_requests + requests, known_tokens + tokens

    def _is_nearly_full(self, share: Share) -> bool:
        pairs = ((self.spent_tokens, share.budget_tokens), (self.spent_nano, share.budget_nano))
        return any(limit is not None and spent * 100 >= limit * WARN_AT_PERCENT for spent, limit in pairs)

    def _find_wait(self, limit: str, excess: int, now_s: float) -> float | None:
        if limit not in ("requests_per_minute", "tokens_per_minute"):
            return None
        for at, counts in sorted(self.buckets.items()):
            excess -= counts[limit == "tokens_per_minute"]
            if excess <= 0:
                return at + WINDOW_S + 1 - now_s
        return None


def reserve(counters: dict[str, Counter], ask: Ask, shares: list[Share], now_s: float) -> Verdict:
    """All of it or nothing. `shares` are those of the request so far, empty at first, and are added to.

    Asking the same again changes nothing, so that an answer that was lost can be asked for once more.
    """
    known = [counters[claim.counter] for claim in ask.claims]
    for claim, counter in zip(ask.claims, known, strict=True):
        counter.drop_old(now_s)
        if claim.period > counter.period and claim.counter in ask.seeds:
            counter.begin_period(claim.period, *ask.seeds[claim.counter])
    pairs = list(zip(ask.claims, known, strict=True))
    unseeded = [position for position, (claim, counter) in enumerate(pairs) if claim.period > counter.period]
    if unseeded:
        return Verdict(unseeded=unseeded)
    refusal = None
    if not _is_repeated(ask.need, shares):
        refusals = (counter.find_refusal(claim, ask.need, now_s, i) for i, (claim, counter) in enumerate(pairs))
        refusal = next(filter(None, refusals), None)
        if refusal is None:
            _take_all(pairs, ask.need, shares, now_s)
    return Verdict(refusal, [], [counter.stand(now_s) for counter in known])


def _is_repeated(need: Need, shares: list[Share]) -> bool:
    return bool(shares) and bool((need.requests and shares[0].requests) or (need.tokens and shares[0].tokens))


def _take_all(pairs: list[tuple[Claim, Counter]], need: Need, shares: list[Share], now_s: float) -> None:
    if not shares:
        shares += [_make_share(claim, counter) for claim, counter in pairs]
    for (claim, counter), share in zip(pairs, shares, strict=True):
        counter.take(claim, need, now_s, share)


def _make_share(claim: Claim, counter: Counter) -> Share:
    return Share(
        counter=claim.counter,
        period=counter.period if claim.period else "",
        budget_tokens=claim.budget_tokens,
        budget_nano=claim.budget_nano,
    )
