"""200 requests at once against limits: never more than allowed, and at most one fewer.

Over two web processes with PostgreSQL and Redis, and over one with SQLite alone.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.scripted_worker import ScriptedWorker
from tests.servers import run_postgres, run_redis
from tests.web_process import (
    SECRET,
    WebProcess,
    find_free_port,
    run_python,
    run_web_process,
    start_uvicorn,
    stop_process,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NUM_REQUESTS = 200
LIMIT = 50
HOLD = 11  # tokens: 5 of the prompt and 6 of max_tokens, all of which are used
BODY = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6}

_LIMIT = """
import sys, json, django
django.setup()
from apps.accounts.models import APIKey
from apps.quotas.models import Quota
Quota.objects.all().delete()
Quota.objects.create(api_key=APIKey.objects.get(), **json.loads(sys.argv[1]))
"""

_SPENT = """
import django
django.setup()
from django.db.models import Sum
from apps.usage.models import UsageRecord
sums = UsageRecord.objects.aggregate(prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens"))
print(UsageRecord.objects.filter(status="open").count(), (sums["prompt"] or 0) + (sums["completion"] or 0))
"""


@dataclass(frozen=True)
class Installation:
    """Web processes on one database."""

    webs: list[WebProcess]

    def limit(self, fields: str) -> None:
        """The key's only limits are these, which every process knows."""
        run_python(self.webs[0].environment, "-c", _LIMIT, fields)

    async def ask_all(self) -> Counter[int]:
        """How many answers there were of each status."""
        limits = httpx.Limits(max_connections=NUM_REQUESTS)
        headers = {"Authorization": f"Bearer {SECRET}"}
        async with httpx.AsyncClient(limits=limits, headers=headers, timeout=120) as client:
            return Counter(await asyncio.gather(*(self._ask(client, position) for position in range(NUM_REQUESTS))))

    async def _ask(self, client: httpx.AsyncClient, position: int) -> int:
        web = self.webs[position % len(self.webs)]
        response = await client.post(f"{web.url}/v1/chat/completions", json=BODY)
        if response.status_code == 429:
            assert response.json()["error"]["code"] in ("rate_limit_exceeded", "insufficient_quota")
            assert int(response.headers["retry-after"]) >= 1
        return response.status_code


@contextmanager
def run_installation(kind: str, folder: Path, worker: ScriptedWorker) -> Iterator[Installation]:
    options = {"worker_ports": [worker.port], "worker_token": worker.token}
    if kind == "sqlite":
        with run_web_process(folder, **options) as web:  # type: ignore[arg-type]
            yield Installation([web])
        return
    (folder / "redis").mkdir()
    with (
        run_postgres() as database_url,
        run_redis(folder / "redis") as redis_url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("REDIS_URL", redis_url)
        with run_web_process(folder, database_url=database_url, **options) as web:  # type: ignore[arg-type]
            port = find_free_port()
            second = start_uvicorn("project.asgi:application", port, web.environment)
            try:
                yield Installation([web, WebProcess(second, port, web.environment)])
            finally:
                stop_process(second)


@pytest.fixture(scope="module", params=["two-with-redis", "one-with-sqlite"])
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with ScriptedWorker() as worker:
        kind = "sqlite" if request.param == "one-with-sqlite" else "redis"
        with run_installation(kind, tmp_path_factory.mktemp(kind), worker) as running:
            yield running


async def test_requests_a_minute(installation: Installation) -> None:
    installation.limit(f'{{"requests_per_minute": {LIMIT}}}')
    assert await installation.ask_all() == {200: LIMIT, 429: NUM_REQUESTS - LIMIT}


async def test_tokens_of_a_minute(installation: Installation) -> None:
    installation.limit(f'{{"tokens_per_minute": {LIMIT * HOLD + 5}}}')
    assert await installation.ask_all() == {200: LIMIT, 429: NUM_REQUESTS - LIMIT}


async def test_budget_of_tokens_for_a_day(installation: Installation) -> None:
    # What the ledger has of the tests before counts for the budget too, whatever it is.
    installation.limit(f'{{"budget_tokens": {20 * LIMIT * HOLD}, "budget_period": "day"}}')
    spent = await read_spent(installation)
    installation.limit(f'{{"budget_tokens": {spent + LIMIT * HOLD + 5}, "budget_period": "day"}}')
    said = await installation.ask_all()
    assert said == {200: LIMIT, 429: NUM_REQUESTS - LIMIT}


async def read_spent(installation: Installation) -> int:
    """Tokens of today, once all rows are settled."""
    async with asyncio.timeout(60):
        while True:
            text = await asyncio.to_thread(run_python, installation.webs[0].environment, "-c", _SPENT)
            num_open, spent = map(int, text.split())
            if not num_open and spent % HOLD == 0:
                return spent
