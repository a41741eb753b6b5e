"""What tokens cost, in billionths of the installation's currency: whole numbers, so that sums are exact."""

from decimal import Decimal
from typing import NamedTuple

from apps.quotas.counters import Need
from apps.quotas.models import NANO, Price
from apps.registry.models import Adapter, HostedModel
from apps.usage.entry import Entry
from apps.usage.models import UsageRecord

_TOKENS = 1_000_000  # that a price is for


class TokenPrice(NamedTuple):
    """Of one token, by its kind."""

    prompt: int
    cached: int
    completion: int

    def cost(self, *, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """Cached tokens are part of the prompt's."""
        return (
            (prompt_tokens - cached_tokens) * self.prompt
            + cached_tokens * self.cached
            + completion_tokens * self.completion
        )

    def bound(self, *, prompt_tokens: int, completion_tokens: int) -> int:
        """The most that such a request can cost, whatever the cache has."""
        return prompt_tokens * max(self.prompt, self.cached) + completion_tokens * self.completion


FREE = TokenPrice(0, 0, 0)


def load_prices() -> dict[int, TokenPrice]:
    """By model. Blocking."""
    return {price.model_id: _read(price) for price in Price.objects.all()}


def load_prices_by_name() -> dict[str, TokenPrice]:
    """By the names that the ledger has: of models, and of adapters, which cost what their model does. Blocking."""
    by_model = load_prices()
    names = [*HostedModel.objects.values_list("name", "pk"), *Adapter.objects.values_list("name", "hosted_model")]
    return {name: by_model[model_id] for name, model_id in names if model_id in by_model}


def measure(request: Entry | UsageRecord, price: TokenPrice) -> Need:
    """What a request has come to."""
    cost = price.cost(
        prompt_tokens=request.prompt_tokens,
        cached_tokens=request.cached_tokens,
        completion_tokens=request.completion_tokens,
    )
    return Need(1, request.prompt_tokens + request.completion_tokens, cost)


def to_nano(amount: Decimal) -> int:
    """Money as a whole number."""
    return int(amount * NANO)


def _read(price: Price) -> TokenPrice:
    cached = price.prompt if price.cached is None else price.cached
    return TokenPrice(*(to_nano(amount) // _TOKENS for amount in (price.prompt, cached, price.completion)))
