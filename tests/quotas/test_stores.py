"""Both stores count by the same rules: each case runs against the database and against a real Redis."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.quotas.counters import Ask, BudgetWarning, Claim, Need
from apps.quotas.stores.base import Store, StoreAway
from apps.quotas.stores.database import DatabaseStore
from apps.quotas.stores.redis import RedisStore
from tests.servers import run_redis
from tests.web_process import find_free_port

ONE = Need(requests=1)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["database", "redis"])
async def store(request: pytest.FixtureRequest, transactional_db: None, redis_url: str, tmp_path: Path) -> object:
    """A store; names of counters differ from test to test, so that one Redis does for all."""
    made: Store = DatabaseStore() if request.param == "database" else RedisStore(redis_url)
    yield made
    await made.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name[:40]


async def reserve(store: Store, hold_id: str, claim: Claim, need: Need = ONE) -> str:
    """ "" when it is held, else the limit that is met."""
    verdict = await store.reserve(Ask(hold_id, [claim], need))
    assert not verdict.unseeded
    return verdict.refusal.limit if verdict.refusal is not None else ""


async def settle(store: Store, hold_id: str, used: Need) -> list[BudgetWarning]:
    return await asyncio.to_thread(store.settle_now, hold_id, used)


async def test_requests_of_a_minute(store: Store, name: str) -> None:
    claim = Claim(counter=name, requests_per_minute=3)
    said = [await reserve(store, f"{name}{i}", claim) for i in range(5)]
    assert said == ["", "", "", "requests_per_minute", "requests_per_minute"]
    verdict = await store.reserve(Ask(f"{name}x", [claim], ONE))
    assert verdict.refusal is not None
    assert verdict.refusal.used == 3
    assert 50 < (verdict.refusal.wait_s or 0) <= 61
    assert verdict.standings[0].requests == 3


async def test_a_request_that_never_ran_does_not_count(store: Store, name: str) -> None:
    claim = Claim(counter=name, requests_per_minute=1, max_concurrent=1)
    assert await reserve(store, f"{name}1", claim) == ""
    await settle(store, f"{name}1", Need())
    assert await reserve(store, f"{name}2", claim) == ""


async def test_requests_at_once(store: Store, name: str) -> None:
    claim = Claim(counter=name, max_concurrent=2)
    assert [await reserve(store, f"{name}{i}", claim) for i in range(3)] == ["", "", "max_concurrent"]
    await settle(store, f"{name}0", ONE)
    assert await reserve(store, f"{name}3", claim) == ""


async def test_tokens_are_held_and_what_is_not_used_comes_back(store: Store, name: str) -> None:
    claim = Claim(counter=name, tokens_per_minute=100)
    for hold_id in (f"{name}1", f"{name}2"):
        assert await reserve(store, hold_id, claim) == ""
    assert await reserve(store, f"{name}1", claim, Need(tokens=80)) == ""
    assert await reserve(store, f"{name}2", claim, Need(tokens=30)) == "tokens_per_minute"
    await settle(store, f"{name}1", Need(1, 50))
    assert await reserve(store, f"{name}2", claim, Need(tokens=50)) == ""


async def test_asking_the_same_again_changes_nothing(store: Store, name: str) -> None:
    claim = Claim(counter=name, requests_per_minute=2, tokens_per_minute=100)
    for need in (ONE, ONE, Need(tokens=60), Need(tokens=60)):
        assert await reserve(store, f"{name}1", claim, need) == ""
    counter = (await asyncio.to_thread(store.read_counters, [name]))[name]
    assert counter.count() == (1, 60)
    assert counter.num_open == 1


async def test_all_limits_or_none(store: Store, name: str) -> None:
    full, free = Claim(counter=f"{name}f", max_concurrent=0), Claim(counter=f"{name}g", requests_per_minute=1)
    verdict = await store.reserve(Ask(f"{name}1", [free, full], ONE))
    assert verdict.refusal is not None
    assert (verdict.refusal.position, verdict.refusal.limit) == (1, "max_concurrent")
    assert await reserve(store, f"{name}2", free) == ""


async def test_budget_begins_with_what_the_ledger_says_and_warns_once(store: Store, name: str) -> None:
    claim = Claim(counter=name, period="2026-11", budget_tokens=1000, budget_nano=10**13)
    assert (await store.reserve(Ask(f"{name}1", [claim], ONE))).unseeded == [0]
    verdict = await store.reserve(Ask(f"{name}1", [claim], ONE, {name: (500, 7)}))
    assert not verdict.unseeded
    assert await reserve(store, f"{name}1", claim, Need(tokens=501)) == "budget_tokens"
    assert await reserve(store, f"{name}1", claim, Need(tokens=400, nano=10**12)) == ""
    assert await settle(store, f"{name}1", Need(1, 300, 9 * 10**11)) == [
        BudgetWarning(name, "2026-11", 800, 900_000_000_007)
    ]
    assert await reserve(store, f"{name}2", claim) == ""
    assert await settle(store, f"{name}2", Need(1, 1, 1)) == []
    counter = (await asyncio.to_thread(store.read_counters, [name]))[name]
    assert (counter.spent_tokens, counter.spent_nano, counter.held_tokens) == (801, 900_000_000_008, 0)


async def test_a_new_period_begins_anew_and_old_holds_do_not_count_in_it(store: Store, name: str) -> None:
    old, new = (Claim(counter=name, period=period, budget_tokens=100) for period in ("2026-11-30", "2026-12-01"))
    await store.reserve(Ask(f"{name}1", [old], ONE, {name: (0, 0)}))
    assert await reserve(store, f"{name}1", old, Need(tokens=90)) == ""
    assert not (await store.reserve(Ask(f"{name}2", [new], ONE, {name: (0, 0)}))).unseeded
    assert await reserve(store, f"{name}2", new, Need(tokens=100)) == ""
    assert await settle(store, f"{name}1", Need(1, 90)) == []
    counter = (await asyncio.to_thread(store.read_counters, [name]))[name]
    assert (counter.spent_tokens, counter.held_tokens) == (0, 100)


async def test_holds_are_listed_by_age_until_they_are_settled(store: Store, name: str) -> None:
    await reserve(store, f"{name}1", Claim(counter=name, max_concurrent=9))
    assert f"{name}1" in await asyncio.to_thread(store.list_holds, -5.0)
    assert f"{name}1" not in await asyncio.to_thread(store.list_holds, 60.0)
    await settle(store, f"{name}1", ONE)
    assert await settle(store, f"{name}1", ONE) == []
    assert f"{name}1" not in await asyncio.to_thread(store.list_holds, -5.0)


async def test_settling_soon_never_waits(store: Store, name: str) -> None:
    claim = Claim(counter=name, max_concurrent=1)
    await reserve(store, f"{name}1", claim)
    store.settle(f"{name}1", ONE, asyncio.get_running_loop())
    async with asyncio.timeout(30):
        while await reserve(store, f"{name}2", claim):
            pass


async def test_a_redis_that_is_away_is_not_waited_for() -> None:
    store = RedisStore(f"redis://127.0.0.1:{find_free_port()}/0")
    async with asyncio.timeout(30):
        for _ in range(50):
            with pytest.raises(StoreAway):
                await store.reserve(Ask("x", [Claim(counter="x", max_concurrent=1)], ONE))
    store.settle("x", ONE, asyncio.get_running_loop())
    await store.close()
