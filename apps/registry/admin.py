"""Administration of models, replicas and nodes. What a button does is in `services.py`."""

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from apps.core.errors import ServiceError
from apps.registry import directory, services, upstreams
from apps.registry.code_admin import ModelCodeInline, ReadOnlyAdmin
from apps.registry.model_form import HostedModelForm
from apps.registry.models import Adapter, HostedModel, Node, Replica, ReplicaState
from apps.registry.states import LIVE_STATES

STATE_LABELS = {
    ReplicaState.REQUESTED: "info",
    ReplicaState.STARTING: "info",
    ReplicaState.LOADING: "info",
    ReplicaState.READY: "success",
    ReplicaState.DRAINING: "warning",
    ReplicaState.FAILED: "danger",
    ReplicaState.STOPPED: "",
}


def _describe_draining(num_replicas: int) -> str:
    text = ngettext("%(count)d replica is stopping.", "%(count)d replicas are stopping.", num_replicas)
    return text % {"count": num_replicas}


@admin.register(HostedModel)
class HostedModelAdmin(ModelAdmin):
    """What clients may name, and how its replicas are started."""

    form = HostedModelForm
    readonly_fields = ["upstream_state"]
    list_display = ["name", "source", "enabled", "readiness", "team_names", "min_replicas", "max_replicas"]
    list_filter = ["enabled", "engine", "teams"]
    search_fields = ["name", "source"]
    autocomplete_fields = ["teams"]
    actions = ["load", "unload"]
    inlines = [ModelCodeInline]
    fieldsets = [
        (None, {"fields": ["name", "source", "revision", "enabled", "teams", "owned_by"]}),
        (
            _("Loading"),
            {
                "description": _("Replicas that already run keep their settings: unload the model to apply changes."),
                "fields": [
                    "engine",
                    ("dtype", "device"),
                    ("quantization", "attn_implementation"),
                    ("model_impl", "tensor_parallel_size"),
                    ("pipeline_parallel_size", "data_parallel_size"),
                ],
            },
        ),
        (
            _("Upstream"),
            {
                "description": _("For the engine “upstream” alone: requests are passed on to this server."),
                "fields": [("upstream_url", "upstream_dialect"), "new_secret", "upstream_state"],
            },
        ),
        (
            _("Memory and concurrency"),
            {
                "description": _("Left empty, context and cache are as large as the model and the machine allow."),
                "fields": [
                    ("max_model_len", "max_num_seqs"),
                    ("kv_cache_bytes", "max_loras"),
                    ("speculation", "batch_invariant"),
                ],
            },
        ),
        (
            _("Replicas"),
            {
                "description": _("A model that nobody uses is unloaded, and loaded again by the next request."),
                "fields": [("min_replicas", "max_replicas"), "idle_timeout_s"],
            },
        ),
        (
            _("Answers"),
            {
                "description": _(
                    'JSON, for example {"temperature": 0.7, "top_p": 0.9}. What a client asks for comes first.'
                ),
                "fields": [
                    "generation_defaults",
                    "chat_template_kwargs",
                    "reasoning",
                    ("tool_call_parser", "reasoning_parser"),
                ],
            },
        ),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[HostedModel]:
        ready = Count("replicas", filter=Q(replicas__state=ReplicaState.READY))
        return super().get_queryset(request).annotate(num_ready=ready).prefetch_related("teams")

    def save_related(self, request: HttpRequest, form: ModelForm, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        transaction.on_commit(directory.invalidate)

    @action(description=_("Load now"), permissions=["change"])
    def load(self, request: HttpRequest, queryset: QuerySet[HostedModel]) -> None:
        """Asks for one replica of each that has none."""
        num_loading = 0
        for model in queryset:
            if model.is_upstream:
                self._tell_upstream(request, model)
                continue
            try:
                services.request_replica(model_id=model.pk)
            except ServiceError as error:
                self.message_user(request, f"{model.name}: {error.message}", messages.ERROR)
            else:
                num_loading += 1
                self.log_change(request, model, "load")
        directory.invalidate()
        if num_loading:
            text = ngettext("%(count)d model is loading.", "%(count)d models are loading.", num_loading)
            self.message_user(request, text % {"count": num_loading}, messages.SUCCESS)

    def _tell_upstream(self, request: HttpRequest, model: HostedModel) -> None:
        if error := upstreams.check(model):
            self.message_user(request, f"{model.name}: {error}", messages.ERROR)
        else:
            text = _("The upstream of %(model)s answers.") % {"model": model.name}
            self.message_user(request, text, messages.SUCCESS)

    @action(description=_("Unload, after the answers in progress"), permissions=["change"])
    def unload(self, request: HttpRequest, queryset: QuerySet[HostedModel]) -> None:
        """Drains every replica. One that `min replicas` demands is started anew."""
        num_draining = 0
        for model in queryset:
            num_draining += services.drain_model(model=model)
            self.log_change(request, model, "unload")
        directory.invalidate()
        self.message_user(request, _describe_draining(num_draining), messages.SUCCESS)

    @display(description=_("ready replicas"), ordering="num_ready", label={True: "success", False: ""})
    def readiness(self, model: Any) -> tuple[bool, str]:
        if model.is_upstream:
            return not model.upstream_error, str(_("upstream"))
        return model.num_ready > 0, f"{model.num_ready} / {model.max_replicas}"

    @display(description=_("state"))
    def upstream_state(self, model: HostedModel) -> str:
        if not model.is_upstream or model.upstream_checked_at is None:
            return "-"
        return model.upstream_error or str(_("It answers."))

    @display(description=_("teams"))
    def team_names(self, model: HostedModel) -> Any:
        return ", ".join(team.name for team in model.teams.all()) or _("everybody")


@admin.register(Adapter)
class AdapterAdmin(ModelAdmin):
    """LoRA adapters. A replica of the model reads one when it is first asked for; nothing has to be restarted."""

    list_display = ["name", "hosted_model", "source", "revision", "enabled"]
    list_filter = ["enabled", "hosted_model"]
    list_select_related = ["hosted_model"]
    search_fields = ["name", "source"]
    autocomplete_fields = ["hosted_model"]
    fields = ["name", "hosted_model", "source", "revision", "enabled"]

    def save_model(self, request: HttpRequest, obj: Adapter, form: ModelForm, change: bool) -> None:
        super().save_model(request, obj, form, change)
        transaction.on_commit(directory.invalidate)


@admin.register(Replica)
class ReplicaAdmin(ReadOnlyAdmin):
    """Worker processes, past and present: to look at, to stop and to start again."""

    list_display = ["model", "state_label", "shown_progress", "node", "num_restarts", "state_changed_at", "shown_error"]
    list_filter = ["state", "model", "node"]
    search_fields = ["model__name", "id"]
    list_select_related = ["model", "node"]
    actions = ["restart", "stop"]
    fieldsets = [
        (None, {"fields": ["model", "state", "shown_progress", "shown_error", "state_changed_at"]}),
        (_("Process"), {"fields": ["id", "node", "host", "port", "pid", "created_at", "ready_at"]}),
        (_("Restarts"), {"fields": ["num_restarts", "restart_after"]}),
        (_("What it says of itself"), {"fields": ["info"]}),
        (_("Log"), {"fields": ["shown_log"]}),
    ]

    def has_delete_permission(self, request: HttpRequest, obj: Replica | None = None) -> bool:
        """A row whose process may still run is the only way to find that process again."""
        gone = obj is None or (obj.state in (ReplicaState.STOPPED, ReplicaState.FAILED) and obj.pid is None)
        return super().has_delete_permission(request, obj) and gone

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Who may use the actions: those whom Django's own permission allows to change replicas."""
        return request.user.has_perm("registry.change_replica")

    @action(description=_("Restart"), permissions=["operate"])
    def restart(self, request: HttpRequest, queryset: QuerySet[Replica]) -> None:
        """Drains those that run and asks for a new replica of each model."""
        for replica in queryset.select_related("model"):
            if replica.state in LIVE_STATES:
                services.begin_drain(replica=replica)
            try:
                services.request_replica(model_id=replica.model_id)
            except ServiceError as error:
                self.message_user(request, f"{replica.model.name}: {error.message}", messages.ERROR)
            else:
                self.log_change(request, replica, "restart")
                text = _("%(model)s is being restarted.") % {"model": replica.model}
                self.message_user(request, text, messages.SUCCESS)
        directory.invalidate()

    @action(description=_("Stop, after the answers in progress"), permissions=["operate"])
    def stop(self, request: HttpRequest, queryset: QuerySet[Replica]) -> None:
        live = list(queryset.filter(state__in=LIVE_STATES))
        num_draining = sum(services.begin_drain(replica=replica) for replica in live)
        for replica in live:
            self.log_change(request, replica, "stop")
        directory.invalidate()
        self.message_user(request, _describe_draining(num_draining), messages.SUCCESS)

    @display(description=_("state"), ordering="state", label=STATE_LABELS)
    def state_label(self, replica: Replica) -> tuple[str, str]:
        return replica.state, replica.get_state_display()

    @display(description=_("progress"), ordering="progress")
    def shown_progress(self, replica: Replica) -> str:
        if replica.state not in (ReplicaState.STARTING, ReplicaState.LOADING):
            return "-"
        return f"{replica.progress:.0%} {replica.stage}"

    @display(description=_("last error"))
    def shown_error(self, replica: Replica) -> str:
        return replica.last_error or "-"

    @display(description=_("last log lines"))
    def shown_log(self, replica: Replica) -> str:
        if not replica.log_tail:
            return str(_("Kept when the process ends."))
        return format_html('<pre class="atrium-log">{}</pre>', replica.log_tail)


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """Machines that run replicas. Each appears by itself when its Celery worker starts."""

    list_display = ["name", "address", "last_seen_at", "num_replicas"]
    search_fields = ["name", "address"]
    fieldsets = [(None, {"fields": ["name", "address", "last_seen_at", "info"]})]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        running = Count("replicas", filter=Q(replicas__state__in=LIVE_STATES))
        return super().get_queryset(request).annotate(num_replicas=running)

    @display(description=_("replicas"), ordering="num_replicas")
    def num_replicas(self, node: Any) -> int:
        return node.num_replicas
