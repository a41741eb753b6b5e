"""Looks whether upstreams answer and have the model, and keeps their secrets. Requests do not wait for any of it.

All functions block.
"""

import asyncio
import logging

import aiohttp
import msgspec
from django.conf import settings
from django.utils import timezone
from yarl import URL

from apps.core.fetch import FetchError, FetchRules, check_host, find_refusal, make_connector
from apps.core.secrets import encrypt
from apps.registry.directory import ReplicaAddress, describe_upstream
from apps.registry.models import Engine, HostedModel

TIMEOUT_S = 10.0
MAX_BYTES = 4 * 1024 * 1024

logger = logging.getLogger(__name__)


class _Model(msgspec.Struct, frozen=True):
    id: str


class _List(msgspec.Struct, frozen=True):
    data: list[_Model]


_decoder = msgspec.json.Decoder(_List)


def set_secret(model: HostedModel, secret: str) -> None:
    """To be saved by the caller. Empty: the upstream is asked without one."""
    model.upstream_secret = encrypt(secret)


def check_all() -> None:
    """Every enabled upstream, all at once."""
    models = list(HostedModel.objects.filter(engine=Engine.UPSTREAM, enabled=True))
    for model, error in zip(models, asyncio.run(_ask_all([describe_upstream(model) for model in models])), strict=True):
        _record(model, error)


def check(model: HostedModel) -> str:
    """What is wrong with it, empty for nothing. The row shows it too."""
    [error] = asyncio.run(_ask_all([describe_upstream(model)]))
    _record(model, error)
    return error


def _record(model: HostedModel, error: str) -> None:
    if error and error != model.upstream_error:
        logger.warning("upstream of %s: %s", model.name, error)
    model.upstream_error, model.upstream_checked_at = error[:300], timezone.now()
    HostedModel.objects.filter(pk=model.pk).update(
        upstream_error=model.upstream_error, upstream_checked_at=model.upstream_checked_at
    )


async def _ask_all(upstreams: list[ReplicaAddress]) -> list[str]:
    return list(await asyncio.gather(*map(_ask, upstreams)))


async def _ask(upstream: ReplicaAddress) -> str:
    if upstream.error:
        return upstream.error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _look(upstream)
    except TimeoutError:
        return f"It did not answer within {TIMEOUT_S:.0f} s."
    except FetchError as error:
        return f"{error} See ATRIUM_UPSTREAM_PRIVATE_HOSTS."
    except (aiohttp.ClientError, OSError, ValueError) as error:
        refusal = find_refusal(error)
        return f"{refusal} See ATRIUM_UPSTREAM_PRIVATE_HOSTS." if refusal else f"It cannot be reached: {error}."


async def _look(upstream: ReplicaAddress) -> str:
    rules = FetchRules(MAX_BYTES, TIMEOUT_S, private_hosts=frozenset(settings.UPSTREAM_PRIVATE_HOSTS))
    url = URL(f"{upstream.url}/models", encoded=True)
    check_host(url, rules)
    headers = {"Authorization": f"Bearer {upstream.token}"} if upstream.token else {}
    async with (
        aiohttp.ClientSession(connector=make_connector(rules), trust_env=False) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        if response.status in (401, 403):
            return "It does not accept the secret."
        if response.status == 404:
            return ""  # it answers, and lists no models
        if response.status != 200:
            return f"It answered with status {response.status}."
        try:
            names = {model.id for model in _decoder.decode(await response.content.read(MAX_BYTES)).data}
        except msgspec.MsgspecError:
            return "What it answers is no list of models."
    return "" if upstream.served_name in names else f"It has no model '{upstream.served_name}'."
