"""`manage.py models list | add | remove | load | unload | status | approve-code`: the registry from the terminal."""

import os
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.db.models import F

from apps.core.errors import ServiceError
from apps.registry import services, upstreams
from apps.registry.management.code import approve_code
from apps.registry.models import (
    QUANTIZATIONS,
    Adapter,
    Engine,
    HostedModel,
    ModelImpl,
    Replica,
    ReplicaState,
    UpstreamDialect,
)
from apps.registry.serve_options import DTYPES

# Fields of a model whose flags have their names.
_FIELDS = (
    *("name", "revision", "dtype", "device", "quantization", "max_model_len", "min_replicas", "max_replicas"),
    *("model_impl", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
)


class Command(BaseCommand):
    help = "Lists, adds, removes, loads and unloads models. Loading needs a running Celery worker."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list")
        status = actions.add_parser("status")
        status.add_argument("name", nargs="?")
        launched = (Engine.VLLM, Engine.SGLANG, Engine.TGI)
        add = actions.add_parser("add")
        add.add_argument("name", help="what clients call it")
        add.add_argument("--source", help="hub id or folder; default: the name")
        add.add_argument("--revision", default="")
        add.add_argument("--dtype", choices=DTYPES, default="auto")
        add.add_argument("--device", default="auto")
        add.add_argument("--quantization", choices=QUANTIZATIONS, default="")
        add.add_argument("--engine", choices=[*launched], default="", help="default: Atrium's own")
        add.add_argument("--model-impl", choices=ModelImpl.values, default=ModelImpl.AUTO)
        for size in ("tensor", "pipeline", "data"):
            add.add_argument(f"--{size}-parallel-size", type=int, default=1, help="of another engine than our own")
        add.add_argument("--trust-remote-code", action="store_true", help="approve the repository's code as it is now")
        add.add_argument("--max-model-len", type=int)
        add.add_argument("--min-replicas", type=int, default=0)
        add.add_argument("--max-replicas", type=int, default=1)
        add.add_argument("--adapter-of", metavar="MODEL", help="it is a LoRA adapter for this model")
        add.add_argument(
            "--upstream",
            default="",
            metavar="URL",
            help="it runs at this server of OpenAI's API; source: its name there",
        )
        add.add_argument("--upstream-kind", choices=UpstreamDialect.values, default=UpstreamDialect.OPENAI)
        add.add_argument(
            "--secret-env", metavar="VARIABLE", help="the environment variable that holds the upstream's key"
        )
        for action in ("remove", "load", "unload", "approve-code"):
            actions.add_parser(action).add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:
        match options["action"]:
            case "list":
                for model in HostedModel.objects.all():
                    state = "enabled" if model.enabled else "disabled"
                    self.stdout.write(f"{model.name}\t{state}\t{model.source}\t{model.revision}")
                for adapter in Adapter.objects.select_related("hosted_model"):
                    state = f"adapter of {adapter.hosted_model}" + ("" if adapter.enabled else ", disabled")
                    self.stdout.write(f"{adapter.name}\t{state}\t{adapter.source}\t{adapter.revision}")
            case "status":
                self._show_status(options["name"])
            case "add":
                self._add(options)
            case "remove":
                if not Adapter.objects.filter(name=options["name"]).delete()[0]:
                    _get_model(options["name"]).delete()  # its processes end with the next reconciliation
                self.stdout.write(f"Removed: {options['name']}")
            case "approve-code":
                self.stdout.write(approve_code(_get_model(options["name"]), "models approve-code"))
            case "load":
                self._load(_get_model(options["name"]))
            case "unload":
                num_draining = services.drain_model(model=_get_model(options["name"]))
                self.stdout.write(f"Replicas on their way out: {num_draining}")

    def _add(self, options: dict[str, Any]) -> None:
        if options["adapter_of"]:
            self._add_adapter(options)
            return
        model = HostedModel(**{name: options[name] for name in _FIELDS})
        model.source = options["source"] or model.name
        model.engine = options["engine"] or Engine.OWN
        _set_upstream(model, options)
        _check(model)
        with transaction.atomic():  # a model whose code cannot be read is not added
            model.save()
            approved = approve_code(model, "models add --trust-remote-code") if options["trust_remote_code"] else ""
        self.stdout.write(f"Added: {model.name}")
        if approved:
            self.stdout.write(approved)

    def _add_adapter(self, options: dict[str, Any]) -> None:
        adapter = Adapter(name=options["name"], hosted_model=_get_model(options["adapter_of"]))
        adapter.source, adapter.revision = options["source"] or adapter.name, options["revision"]
        _check(adapter)
        adapter.save()
        self.stdout.write(f"Added: {adapter.name}")

    def _load(self, model: HostedModel) -> None:
        if model.is_upstream:
            if error := upstreams.check(model):
                raise CommandError(f"{model.name}: {error}")
            self.stdout.write(f"Answers: {model.name}")
            return
        try:
            services.request_replica(model_id=model.pk)
        except ServiceError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"Asked for: {model.name}")

    def _show_status(self, name: str | None) -> None:
        for model in HostedModel.objects.filter(engine=Engine.UPSTREAM, name=name or F("name")):
            state = "not checked" if model.upstream_checked_at is None else model.upstream_error or "answers"
            self.stdout.write(f"{model}\tupstream\t{model.upstream_url}\t{state}")
        replicas = Replica.objects.exclude(state=ReplicaState.STOPPED).select_related("model", "node")
        for replica in replicas.filter(model=_get_model(name)) if name else replicas:
            detail = replica.last_error if replica.state == ReplicaState.FAILED else replica.stage
            self.stdout.write(
                f"{replica.model}\t{replica.state}\t{replica.progress:.0%}\t{replica.node}\t"
                f"pid {replica.pid or '-'}\trestarts {replica.num_restarts}\t{detail}"
            )


def _set_upstream(model: HostedModel, options: dict[str, Any]) -> None:
    variable = options["secret_env"]
    if not options["upstream"]:
        if variable:
            raise CommandError("--secret-env needs --upstream.")
        return
    model.engine, model.upstream_url, model.upstream_dialect = (
        Engine.UPSTREAM,
        options["upstream"],
        options["upstream_kind"],
    )
    if variable:
        if not os.environ.get(variable):
            raise CommandError(f"The environment variable {variable} is not set.")
        upstreams.set_secret(model, os.environ[variable])


def _check(row: HostedModel | Adapter) -> None:
    try:
        row.full_clean()
    except ValidationError as error:
        raise CommandError("; ".join(f"{name}: {' '.join(e)}" for name, e in error.message_dict.items())) from error


def _get_model(name: str) -> HostedModel:
    try:
        return HostedModel.objects.get(name=name)
    except HostedModel.DoesNotExist:
        raise CommandError(f"There is no model {name}: see `models list`.") from None
