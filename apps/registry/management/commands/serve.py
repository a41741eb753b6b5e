"""`manage.py serve`: the whole portal on one machine, in one command. Its parts are ordinary processes."""

import os
import shutil
import signal
import socket
import sys
import threading
from argparse import ArgumentParser
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections

from apps.registry import reconcile, services
from apps.registry.bootstrap import DEMO_MODEL_NAME
from apps.registry.children import AlreadyServing, Children
from apps.registry.management.code import approve_code
from apps.registry.management.commands.bootstrap import bootstrap_from_settings, describe_credentials
from apps.registry.models import Adapter, HostedModel, Replica, ReplicaState
from apps.registry.serve_options import (
    OptionError,
    ServeOptions,
    add_arguments,
    add_underscore_spellings,
    find_allowed_hosts,
    read_options,
)

POLL_S = 0.3
GRACEFUL_SHUTDOWN_S = 5  # open streams may go on for so long after Ctrl-C
REPLICA_STOP_TIMEOUT_S = 10.0


class Command(BaseCommand):
    help = "Serves on this machine: web, Celery and workers, with no other server needed. Ctrl-C stops all of it."
    requires_system_checks = ["security"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_arguments(parser)
        add_underscore_spellings(parser)

    def handle(self, *args: Any, **given: Any) -> None:
        try:
            options = read_options(given)
        except OptionError as error:
            raise CommandError(str(error)) from error
        stop = _StopSignal()
        try:
            with Children(settings.DATA_DIR) as children:
                _require_free_port(options.host, options.port)
                model = self._prepare(options)
                try:
                    self._start(children, options, model)
                    self._run(children, stop, options, model)
                finally:
                    self._stop(children, stop)
        except AlreadyServing:
            raise CommandError(f"Another `serve` runs with the data folder {settings.DATA_DIR}.") from None

    def _prepare(self, options: ServeOptions) -> HostedModel:
        """Migrations, first credentials, the model's row; prints where everything is."""
        call_command("migrate", verbosity=0, interactive=False)
        credentials = bootstrap_from_settings()
        model = register_served_model(options)
        if options.approves_code:
            self._say(approve_code(model, "serve --trust-remote-code"))
        services.register_node(name=settings.NODE_NAME, address=settings.NODE_ADDRESS, info={})
        if hasattr(settings, "BROKER_DIR"):
            _clear_broker()
        host = "localhost" if options.host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::") else options.host  # noqa: S104
        url = settings.PUBLIC_BASE_URL or f"http://{host}:{options.port}"
        self._say(f"Chat      {url}/", f"API       {url}/v1", f"Admin     {url}/admin/")
        self._say(*describe_credentials(credentials), "")
        return model

    def _start(self, children: Children, options: ServeOptions, model: HostedModel) -> None:
        environment = make_environment(options, model)
        web = ["uvicorn", "project.asgi:application", "--host", options.host, "--port", str(options.port)]
        web += ["--workers", str(options.num_workers), "--timeout-graceful-shutdown", str(GRACEFUL_SHUTDOWN_S)]
        web += ["--log-level", options.log_level, "--no-access-log", "--ws", "websockets-sansio"]
        celery = ["celery", "--quiet", "-A", "project", "worker", "--beat-thread", "--pool", "solo", "--purge"]
        celery += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", options.log_level]
        celery += ["-Q", f"control,batches,node.{settings.NODE_NAME}", "-n", f"{settings.NODE_NAME}@%h"]
        for name, command in (("web", web), ("celery", celery)):
            children.start(name, [sys.executable, "-m", *command], cwd=settings.BASE_DIR, environment=environment)
        services.request_replica(model_id=model.pk)

    def _run(self, children: Children, stop: "_StopSignal", options: ServeOptions, model: HostedModel) -> None:
        """Until told to stop. Raises CommandError when the model cannot be loaded or a process has ended by itself."""
        shown = ""
        is_ready = False
        while not stop.wait(POLL_S):
            if (name := children.find_dead()) is not None:
                raise CommandError(f"The {name} process has ended; its reason stands above.")
            if is_ready:
                continue
            close_old_connections()
            replica = Replica.objects.filter(model=model).exclude(state=ReplicaState.STOPPED).first()
            if replica is not None and replica.state == ReplicaState.FAILED:
                raise CommandError(f"{model.name} cannot be loaded: {replica.last_error}\n{replica.log_tail}")
            is_loaded = replica is not None and replica.state == ReplicaState.READY
            is_ready = is_loaded and _is_listening(options.host, options.port)
            line = f"Ready: {model.name}. Ctrl-C stops." if is_ready else _describe_loading(model, replica)
            if line != shown:
                self._say(line)
                shown = line

    def _stop(self, children: Children, stop: "_StopSignal") -> None:
        """Web first, so that nobody asks for a replica; then who would restart replicas; then the replicas."""
        self._say("", "Stopping ...")
        stop.on_second = children.kill
        children.stop("web")
        children.stop("celery")
        reconcile.stop_node(settings.NODE_NAME, timeout_s=REPLICA_STOP_TIMEOUT_S)
        self._say("Stopped.")

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.stdout.write(line)
        self.stdout.flush()


class _StopSignal:
    """Ctrl-C or SIGTERM, noticed between two polls; a second one calls `on_second`."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.on_second = self._event.set
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def wait(self, timeout_s: float) -> bool:
        return self._event.wait(timeout_s)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set():
            self.on_second()
        self._event.set()


def register_served_model(options: ServeOptions) -> HostedModel:
    """The row of the model to be served, made or brought in line with the flags that were given."""
    if options.name is None or options.source is None:
        model = HostedModel.objects.get(name=DEMO_MODEL_NAME)
    else:
        model, _ = HostedModel.objects.get_or_create(name=options.name, defaults={"source": options.source})
        model.source = options.source
        model.revision = options.revision
    model.enabled = True
    for name, value in options.fields.items():
        current = getattr(model, name)
        setattr(model, name, {**current, **value} if isinstance(value, dict) else value)
    model.save()
    for name, (source, revision) in options.adapters.items():
        if HostedModel.objects.filter(name=name).exists():
            raise CommandError(f"The adapter {name} cannot be served: a model has this name.")
        Adapter.objects.update_or_create(
            name=name, defaults={"hosted_model": model, "source": source, "revision": revision, "enabled": True}
        )
    return model


def make_environment(options: ServeOptions, model: HostedModel) -> dict[str, str]:
    """What the children's settings are told beyond our own environment."""
    hosts = [*settings.ALLOWED_HOSTS, *find_allowed_hosts(options.host)]
    told = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "ATRIUM_LOG_LEVEL": options.log_level,
        "ATRIUM_ALLOWED_HOSTS": ",".join(dict.fromkeys(hosts)),
    }
    if options.is_kept_loaded:
        told["ATRIUM_PRELOAD_MODELS"] = ",".join({*settings.PRELOAD_MODELS, model.name})
    if options.enable_cors:
        told["ATRIUM_CORS_ALLOWED_ORIGINS"] = "*"
    if options.compile is not None:
        told["ATRIUM_WORKER_COMPILE"] = options.compile
    if options.force_model:
        told["ATRIUM_FORCE_MODEL"] = model.name
    return os.environ | told


def _require_free_port(host: str, port: int) -> None:
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CommandError(f"Cannot listen on {host}, port {port}: {reason}. Choose another with --port.") from error


def _is_listening(host: str, port: int) -> bool:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not bound to
    try:
        socket.create_connection((here, port), timeout=1).close()
    except OSError:
        return False
    return True


def _clear_broker() -> None:
    """Messages of an earlier run are stale: what they asked for is asked for again."""
    for folder in settings.BROKER_DIR.iterdir():
        shutil.rmtree(folder)
        folder.mkdir()


def _describe_loading(model: HostedModel, replica: Replica | None) -> str:
    if replica is None:
        return f"Loading {model.name} ..."
    if replica.state == ReplicaState.READY:
        return "Starting the web server ..."
    stage = replica.stage or replica.get_state_display().lower()
    return f"Loading {model.name}: {stage} {replica.progress:.0%}"
