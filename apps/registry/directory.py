"""The web processes' view of models and replicas: a snapshot in memory, at most a second old. It changes nothing.

A request for an unknown or invisible model is answered from the snapshot alone; the database is asked once a second,
whatever the load, and not at all while nobody asks.
"""

from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import NAMESPACE_URL, uuid5

from django.conf import settings
from django.db.models import OuterRef, Prefetch, Subquery

from apps.accounts.caller import Caller
from apps.core.db import run_db
from apps.core.errors import InvalidRequest, ModelNotFound
from apps.core.secrets import SecretLost, decrypt
from apps.core.snapshots import Snapshots
from apps.registry import services
from apps.registry.access import may_use
from apps.registry.models import Adapter, HostedModel, Replica, ReplicaState
from apps.registry.states import LIVE_STATES
from gpu_worker.protocol import AdapterRef, ReasoningSetting

DEFAULT_TASK = "generate"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model, or one with an adapter, as clients may name it."""

    id: int  # of the model
    name: str
    source: str
    revision: str
    owned_by: str
    created: int  # Unix seconds
    team_ids: frozenset[int]  # empty: everybody's
    generation_defaults: dict[str, Any]
    chat_template_kwargs: dict[str, Any]
    reasoning: ReasoningSetting
    max_model_len: int | None
    context_length: int | None  # what its latest replica had, where the settings name none; None: never loaded
    input_modalities: tuple[str, ...] | None  # "text", "image", "audio"; None: never loaded
    task: str | None  # of `ModelInfo`, as its latest replica said; None: never loaded
    max_num_seqs: int
    min_replicas: int
    max_replicas: int
    parent: str | None = None  # the name of the adapter's model
    adapter: AdapterRef | None = None


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """A replica that is not stopped. `url` is empty until its process has been started."""

    id: str
    model_id: int
    url: str
    token: str = field(repr=False)
    state: str
    progress: float
    stage: str
    error: str
    dialect: str = ""  # of a server of OpenAI's API; empty: a worker of our own
    served_name: str = ""  # what the model is called there
    is_upstream: bool = False


@dataclass(frozen=True, slots=True)
class _Snapshot:
    models: dict[str, ModelSpec]
    replicas: dict[int, list[ReplicaAddress]]


async def get_model(name: str, caller: Caller) -> ModelSpec:
    """The model that this caller means by `name`, `name@revision`, `name:file.gguf` or `name@revision:file.gguf`.

    Raises ModelNotFound for one that is unknown, disabled or another team's, and InvalidRequest (param "model") where
    FORCE_MODEL pins the server to another name.
    """
    base, _, revision = name.partition("@")
    revision, colon, file = revision.partition(":")
    base += colon + file
    spec = (await _cache.get()).models.get(base)
    if settings.FORCE_MODEL and (spec is None or not _is_served(spec)) and base != settings.FORCE_MODEL:
        raise InvalidRequest(f"This server serves the model '{settings.FORCE_MODEL}' only.", param="model")
    if spec is None or not may_use(caller, enabled=True, team_ids=spec.team_ids):
        raise ModelNotFound(f"The model '{name}' does not exist or you do not have access to it.", param="model")
    if revision and revision != (spec.revision or "main"):
        raise ModelNotFound(
            f"The model '{base}' is hosted at revision '{spec.revision or 'main'}', not '{revision}'.", param="model"
        )
    return spec


async def list_models(caller: Caller) -> list[ModelSpec]:
    """What this caller may use, by name."""
    specs = (await _cache.get()).models.values()
    return [spec for spec in specs if may_use(caller, enabled=True, team_ids=spec.team_ids) and _is_served(spec)]


def _is_served(spec: ModelSpec) -> bool:
    """Whether FORCE_MODEL, if it is set, is this model or that of this adapter."""
    return not settings.FORCE_MODEL or settings.FORCE_MODEL in (spec.name, spec.parent)


async def get_replicas(model_id: int) -> list[ReplicaAddress]:
    """The model's replicas in every state but stopped, newest first."""
    return list((await _cache.get()).replicas.get(model_id, ()))


async def request_replica(model_id: int) -> None:
    """Have at least one replica started. Idempotent, and free while the snapshot shows one.

    Raises Unavailable when no machine can run it, ModelNotFound when the model is gone.
    """
    if not any(replica.state in LIVE_STATES for replica in await get_replicas(model_id)):
        await run_db(services.request_replica, model_id=model_id)
        invalidate()


def invalidate() -> None:
    """The next question is answered by the database. From any thread."""
    _cache.invalidate()


def _take_snapshot() -> _Snapshot:
    """Four queries, on a database thread."""
    loaded = Replica.objects.filter(model=OuterRef("pk"), ready_at__isnull=False).order_by("-ready_at")
    models = (
        HostedModel.objects.filter(enabled=True)
        .annotate(loaded_info=Subquery(loaded.values("info")[:1]))
        .prefetch_related("teams", Prefetch("adapters", Adapter.objects.filter(enabled=True)))
    )
    replicas: dict[int, list[ReplicaAddress]] = {}
    by_id = {model.pk: model for model in models}
    for replica in Replica.objects.exclude(state=ReplicaState.STOPPED).defer("log_tail", "info"):
        replicas.setdefault(replica.model_id, []).append(_describe_replica(replica, by_id.get(replica.model_id)))
    specs = {model.name: _describe_model(model, model.loaded_info or {}) for model in models}
    for model in models:
        if model.is_upstream:
            replicas[model.pk] = [describe_upstream(model)]
        for adapter in model.adapters.all():
            specs.setdefault(adapter.name, _describe_adapter(adapter, specs[model.name]))
    return _Snapshot(specs, replicas)


_cache = Snapshots(_take_snapshot)


def _describe_model(model: HostedModel, info: dict[str, Any]) -> ModelSpec:
    """`info` is what its latest replica said of the loaded model."""
    return ModelSpec(
        id=model.pk,
        name=model.name,
        source=model.source,
        revision=model.revision,
        owned_by=model.owned_by,
        created=int(model.created_at.timestamp()),
        team_ids=frozenset(team.pk for team in model.teams.all()),
        generation_defaults=model.generation_defaults,
        chat_template_kwargs=model.chat_template_kwargs,
        reasoning=cast(ReasoningSetting, model.reasoning),
        max_model_len=model.max_model_len,
        context_length=model.max_model_len or info.get("max_model_len"),
        input_modalities=_find_modalities(info),
        task=info.get("task", DEFAULT_TASK) if info else None,  # a worker leaves defaults out
        max_num_seqs=model.max_num_seqs,
        min_replicas=model.min_replicas,
        max_replicas=model.max_replicas,
    )


def _describe_adapter(adapter: Adapter, base: ModelSpec) -> ModelSpec:
    """Everything but what it is called and made of is the model's."""
    return replace(
        base,
        name=adapter.name,
        source=adapter.source,
        revision=adapter.revision,
        created=int(adapter.created_at.timestamp()),
        parent=base.name,
        adapter=AdapterRef(adapter.name, adapter.source, adapter.revision),
    )


def _find_modalities(info: dict[str, Any]) -> tuple[str, ...] | None:
    if not info:
        return None
    if info.get("task") == "transcribe":
        return ("audio",)
    senses = {"image": info.get("supports_images"), "audio": info.get("supports_audio")}
    return ("text", *(name for name, is_there in senses.items() if is_there))


def describe_upstream(model: HostedModel) -> ReplicaAddress:
    """An upstream stands where a model's replicas do, and is always there."""
    error = ""
    try:
        secret = decrypt(model.upstream_secret)
    except SecretLost:
        secret, error = "", "The upstream's secret must be entered again: SECRET_KEY has changed."
    return ReplicaAddress(
        id=str(uuid5(NAMESPACE_URL, f"atrium:upstream:{model.pk}")),
        model_id=model.pk,
        url=model.upstream_url.rstrip("/"),
        token=secret,
        state=ReplicaState.FAILED if error else ReplicaState.READY,
        progress=1.0,
        stage="",
        error=error,
        dialect=model.upstream_dialect,
        served_name=model.source,
        is_upstream=True,
    )


def _describe_replica(replica: Replica, model: HostedModel | None) -> ReplicaAddress:
    is_http = model is not None and model.is_launched_engine
    host = f"[{replica.host}]" if ":" in replica.host else replica.host
    return ReplicaAddress(
        id=str(replica.pk),
        model_id=replica.model_id,
        url=(f"http://{host}:{replica.port}/v1" if is_http else f"ws://{host}:{replica.port}") if replica.port else "",
        token=replica.token,
        state=replica.state,
        progress=replica.progress,
        stage=replica.stage,
        error=replica.last_error,
        dialect=model.engine if model is not None and is_http else "",
        served_name=model.name if model is not None and is_http else "",
    )
