"""What is hosted, where it runs, and on which machines. How a replica changes state is in `states.py`."""

import uuid
from typing import get_args

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from apps.registry.engine_commands import EngineSettingError, EngineSettings, check_settings
from apps.registry.validators import validate_adapter_source, validate_model_name, validate_upstream_url
from gpu_worker.protocol import Quantization, ReasoningFormat, ToolCallFormat

QUANTIZATIONS = get_args(Quantization)
TOOL_CALL_PARSERS = get_args(ToolCallFormat)
REASONING_PARSERS = get_args(ReasoningFormat)


class Engine(models.TextChoices):
    """What runs a model's replicas."""

    OWN = "own", _("Atrium engine")
    UPSTREAM = "upstream", _("Upstream: a server elsewhere")
    VLLM = "vllm", "vLLM"
    SGLANG = "sglang", "SGLang"
    TGI = "tgi", "TGI"


class ModelImpl(models.TextChoices):
    """Whose code of the model another engine runs."""

    AUTO = "auto", _("As the engine chooses")
    TRANSFORMERS = "transformers", "transformers"
    NATIVE = "native", _("The engine's own")


class UpstreamDialect(models.TextChoices):
    """Which of the servers that speak OpenAI's API it is: each knows other extensions."""

    OPENAI = "openai", _("OpenAI, and others without extensions")
    ATRIUM = "atrium", "Atrium"
    VLLM = "vllm", "vLLM"
    SGLANG = "sglang", "SGLang"
    TGI = "tgi", "TGI"


class Reasoning(models.TextChoices):
    """Whether a model thinks before it answers, where the client does not say."""

    AUTO = "auto", _("As its chat template says")
    ON = "on", _("On")
    OFF = "off", _("Off")


class Speculation(models.TextChoices):
    """Whether the engine guesses the next tokens from earlier ones. No answer depends on it."""

    AUTO = "auto", _("Where it pays")
    NGRAM = "ngram", _("Always")
    OFF = "off", _("Off")


class HostedModel(models.Model):
    """One model that clients may name, with the settings that its replicas are started with."""

    name = models.CharField(
        _("name"),
        max_length=200,
        unique=True,
        validators=[validate_model_name],
        help_text=_("What clients put into “model”. Slashes are allowed."),
    )
    source = models.CharField(
        _("source"),
        max_length=500,
        help_text=_(
            "A hub id such as Qwen/Qwen3-4B, or a folder on the worker's machine; with :FILE.gguf behind it, that file "
            "of either. With an upstream: what the model is called there."
        ),
    )
    revision = models.CharField(_("revision"), max_length=100, blank=True)
    engine = models.CharField(_("engine"), max_length=20, choices=Engine.choices, default=Engine.OWN)
    enabled = models.BooleanField(_("enabled"), default=True)
    teams = models.ManyToManyField(
        "accounts.Team",
        blank=True,
        related_name="models",
        verbose_name=_("teams"),
        help_text=_("Who may use it. Empty: everybody."),
    )
    owned_by = models.CharField(_("owned by"), max_length=100, default="atrium")

    dtype = models.CharField(_("dtype"), max_length=20, default="auto")
    device = models.CharField(_("device"), max_length=20, default="auto")
    attn_implementation = models.CharField(_("attention"), max_length=50, blank=True)
    quantization = models.CharField(
        _("quantisation"),
        max_length=20,
        blank=True,
        choices=[(name, name) for name in QUANTIZATIONS],
        help_text=_("Empty: the weights as they are. Else they are made smaller when the model is loaded."),
    )
    max_model_len = models.PositiveIntegerField(
        _("max context"), null=True, blank=True, validators=[MinValueValidator(16)]
    )
    max_num_seqs = models.PositiveIntegerField(_("max concurrency"), default=64, validators=[MinValueValidator(1)])
    max_loras = models.PositiveSmallIntegerField(
        _("max adapters"), default=8, help_text=_("LoRA adapters that each replica keeps loaded.")
    )
    kv_cache_bytes = models.BigIntegerField(_("KV cache bytes"), null=True, blank=True)
    speculation = models.CharField(
        _("speculation"),
        max_length=10,
        choices=Speculation.choices,
        default=Speculation.AUTO,
        help_text=_(
            "Guessing tokens from the text so far: faster where an answer repeats it, and never another answer."
        ),
    )
    batch_invariant = models.BooleanField(
        _("batch-invariant"),
        default=False,
        help_text=_("The same request gets the same tokens alone and in any batch, in bf16 too. Slower; CPUs only."),
    )
    generation_defaults = models.JSONField(
        _("generation defaults"), default=dict, blank=True, help_text=_("Sampling values for requests that give none.")
    )
    chat_template_kwargs = models.JSONField(_("chat template arguments"), default=dict, blank=True)
    reasoning = models.CharField(_("reasoning"), max_length=10, choices=Reasoning.choices, default=Reasoning.AUTO)
    tool_call_parser = models.CharField(
        _("tool-call parser"),
        max_length=40,
        blank=True,
        choices=[(name, name) for name in TOOL_CALL_PARSERS],
        help_text=_("Empty: chosen by the model's chat template."),
    )
    reasoning_parser = models.CharField(
        _("reasoning parser"),
        max_length=40,
        blank=True,
        choices=[(name, name) for name in REASONING_PARSERS],
        help_text=_("Empty: chosen by the model's chat template."),
    )

    model_impl = models.CharField(
        _("implementation"),
        max_length=20,
        choices=ModelImpl.choices,
        default=ModelImpl.AUTO,
        help_text=_("For vLLM and SGLang: their own code of the model, or transformers'."),
    )
    tensor_parallel_size = models.PositiveSmallIntegerField(
        _("tensor parallel size"),
        default=1,
        validators=[MinValueValidator(1)],
        help_text=_("For vLLM, SGLang and TGI: over how many GPUs one replica runs."),
    )
    pipeline_parallel_size = models.PositiveSmallIntegerField(
        _("pipeline parallel size"), default=1, validators=[MinValueValidator(1)]
    )
    data_parallel_size = models.PositiveSmallIntegerField(
        _("data parallel size"), default=1, validators=[MinValueValidator(1)]
    )

    upstream_url = models.CharField(
        _("upstream URL"),
        max_length=500,
        blank=True,
        validators=[validate_upstream_url],
        help_text=_("Up to and with /v1, such as https://api.openai.com/v1."),
    )
    upstream_dialect = models.CharField(
        _("kind of server"), max_length=10, choices=UpstreamDialect.choices, default=UpstreamDialect.OPENAI
    )
    upstream_secret = models.TextField(blank=True, editable=False)  # as `core.secrets` encrypts it
    upstream_checked_at = models.DateTimeField(_("upstream checked"), null=True, blank=True, editable=False)
    upstream_error = models.CharField(_("upstream's state"), max_length=300, blank=True, editable=False)

    min_replicas = models.PositiveSmallIntegerField(
        _("min replicas"), default=0, help_text=_("0: load on the first request.")
    )
    max_replicas = models.PositiveSmallIntegerField(_("max replicas"), default=1, validators=[MinValueValidator(1)])
    idle_timeout_s = models.PositiveIntegerField(
        _("idle timeout (s)"), default=300, help_text=_("Unload after so many seconds without work. 0: never.")
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = _("model")
        verbose_name_plural = _("models")

    def __str__(self) -> str:
        return self.name

    @property
    def is_launched_engine(self) -> bool:
        """Whether its replicas are another engine's processes than our own."""
        return self.engine in (Engine.VLLM, Engine.SGLANG, Engine.TGI)

    @property
    def is_upstream(self) -> bool:
        """Whether it runs elsewhere: then it has no replicas."""
        return self.engine == Engine.UPSTREAM

    def clean(self) -> None:
        """Raises ValidationError for the name of an adapter, and for settings that the engine cannot follow."""
        if Adapter.objects.filter(name=self.name).exists():
            raise ValidationError({"name": _("An adapter has this name.")})
        if (self.engine == Engine.UPSTREAM) != bool(self.upstream_url):
            raise ValidationError({"upstream_url": _("An upstream needs it; the other engines have none.")})
        if self.is_launched_engine:
            try:
                check_settings(read_settings(self))
            except EngineSettingError as error:
                raise ValidationError({error.field: str(error)}) from error
            return
        for name in ("model_impl", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            if getattr(self, name) not in (1, ModelImpl.AUTO):
                raise ValidationError({name: _("Only vLLM, SGLang and TGI have it.")})


def read_settings(model: HostedModel) -> EngineSettings:
    """The row as the command of another engine needs it."""
    return EngineSettings(**{name: getattr(model, name) for name in EngineSettings.__slots__})


class Adapter(models.Model):
    """LoRA weights for a model, which clients may name in its place. Whoever may use the model may use them."""

    name = models.CharField(
        _("name"),
        max_length=200,
        unique=True,
        validators=[validate_model_name],
        help_text=_("What clients put into “model”. Slashes are allowed."),
    )
    hosted_model = models.ForeignKey(
        HostedModel,
        on_delete=models.CASCADE,
        related_name="adapters",
        verbose_name=_("model"),
        help_text=_("The model it was trained for."),
    )
    source = models.CharField(
        _("source"),
        max_length=500,
        validators=[validate_adapter_source],
        help_text=_("A hub id, or a folder on the worker's machine, with the files that peft saves."),
    )
    revision = models.CharField(_("revision"), max_length=100, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = _("adapter")
        verbose_name_plural = _("adapters")

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError for the name of a model."""
        if HostedModel.objects.filter(name=self.name).exists():
            raise ValidationError({"name": _("A model has this name.")})


class ModelCode(models.Model):
    """The Python code found in a model's repository at one moment, and whether it may run.

    It belongs to what the model was loaded from: a model that is given another source has no code that may run.
    """

    model = models.ForeignKey(HostedModel, on_delete=models.CASCADE, related_name="codes", verbose_name=_("model"))
    source = models.CharField(_("source"), max_length=500)
    revision = models.CharField(_("revision"), max_length=100, blank=True, help_text=_("As the model asks for it."))
    commit = models.CharField(_("commit"), max_length=100, blank=True, help_text=_("Empty for a folder."))
    sha256 = models.CharField("SHA-256", max_length=64)
    files = models.JSONField(_("files"), default=list)  # those of protocol.RepositoryCode
    found_at = models.DateTimeField(_("found"), default=timezone.now)
    approved_at = models.DateTimeField(_("approved"), null=True, blank=True)
    approved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("approved by")
    )
    approved_through = models.CharField(_("approved through"), max_length=100, blank=True)

    class Meta:
        ordering = ["-found_at"]
        verbose_name = _("model's code")
        verbose_name_plural = _("models' code")
        constraints = [
            models.UniqueConstraint(
                fields=["model", "source", "revision", "commit", "sha256"], name="registry_modelcode_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.sha256[:12]}"


class Node(models.Model):
    """A machine that runs replicas: one Celery worker with the queue `node.<name>`."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    address = models.CharField(_("address"), max_length=200, default="127.0.0.1")
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True)
    info = models.JSONField(_("info"), default=dict, blank=True)

    class Meta:
        ordering = ["name"]
        verbose_name = _("node")
        verbose_name_plural = _("nodes")

    def __str__(self) -> str:
        return self.name


class ReplicaState(models.TextChoices):
    """Life of a replica. The allowed moves are in `states.TRANSITIONS`."""

    REQUESTED = "requested", _("Requested")
    STARTING = "starting", _("Starting")
    LOADING = "loading", _("Loading")
    READY = "ready", _("Ready")
    DRAINING = "draining", _("Draining")
    STOPPED = "stopped", _("Stopped")
    FAILED = "failed", _("Failed")


class Replica(models.Model):
    """One worker process that holds one model, now or in the past."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.ForeignKey(HostedModel, on_delete=models.CASCADE, related_name="replicas", verbose_name=_("model"))
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="replicas", verbose_name=_("node"))
    state = models.CharField(
        _("state"), max_length=12, choices=ReplicaState.choices, default=ReplicaState.REQUESTED, db_index=True
    )
    host = models.CharField(_("host"), max_length=200, blank=True)
    port = models.PositiveIntegerField(_("port"), null=True, blank=True)
    token = models.CharField(max_length=100, blank=True, editable=False)
    pid = models.PositiveIntegerField(_("process"), null=True, blank=True)
    pid_started_at = models.FloatField(
        null=True, blank=True, editable=False, help_text="create time of the process, so that a reused pid is noticed"
    )
    progress = models.FloatField(_("progress"), default=0.0)
    stage = models.CharField(_("stage"), max_length=200, blank=True)
    info = models.JSONField(_("info"), default=dict, blank=True)
    num_restarts = models.PositiveIntegerField(_("restarts"), default=0)
    restart_after = models.DateTimeField(_("restart after"), null=True, blank=True)
    unhealthy_since = models.DateTimeField(_("not answering since"), null=True, blank=True)
    stop_signalled_at = models.DateTimeField(_("told to stop"), null=True, blank=True)
    last_error = models.TextField(_("last error"), blank=True)
    log_tail = models.TextField(_("last log lines"), blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    state_changed_at = models.DateTimeField(_("state since"), default=timezone.now, editable=False)
    ready_at = models.DateTimeField(_("ready"), null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("replica")
        verbose_name_plural = _("replicas")

    def __str__(self) -> str:
        return f"{self.model} #{str(self.id)[:8]}"
