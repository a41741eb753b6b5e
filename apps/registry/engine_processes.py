"""vLLM, SGLang and TGI on this machine: found, started, asked how they are. Knows no row but the model's settings.

All functions block. Processes are those of `launcher`: in sessions of their own, found again by pid and start time.
"""

import http.client
import json
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

from apps.registry import launcher
from apps.registry.engine_commands import EngineSettingError, Place, Version, make_launch, parse_version
from apps.registry.health import TIMEOUT_S, Health
from apps.registry.launcher import WorkerProcess
from apps.registry.models import HostedModel, read_settings

VERSION_TIMEOUT_S = 120.0
LOG_LINES = 400  # the reason of a failure stands above what ends the processes around it
_PACKAGES = {"vllm": "vllm", "sglang": "sglang"}
# What of /metrics is work that is there now, and what counts requests that have ended.
_ACTIVE = re.compile(
    r"^(?:vllm:num_requests_(?:running|waiting)|sglang:num_(?:running|queue)_reqs|tgi_queue_size|tgi_batch_current_size)"
    r"(?:\{.*\})? (\S+)$",
    re.MULTILINE,
)
_ENDED = re.compile(
    r"^(?:vllm:request_success_total|sglang:num_requests_total|tgi_request_count)(?:\{.*\})? (\S+)$", re.MULTILINE
)
_REASON = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)(?:\[\w+\])?: .+|(?:error|Error): .+")


def launch(replica_id: str, model: HostedModel, *, port: int, token: str) -> WorkerProcess:
    """Start the model's engine on this port. Raises EngineSettingError, also where it is not installed; OSError."""
    executable = find_executable(model.engine)
    version = find_version(model.engine, executable)
    folder = launcher.get_folder(replica_id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "activity.json").unlink(missing_ok=True)
    made = make_launch(
        read_settings(model),
        Place(
            executable=executable,
            version=version,
            host=settings.NODE_BIND_HOST,
            port=port,
            folder=str(folder),
            token=token,
            ports=_find_free_ports(2),
        ),
    )
    for path, text in made.files.items():
        Path(path).touch(mode=0o600)
        Path(path).write_text(text)
    return launcher.start(replica_id, made.command, environment=made.environment)


def find_executable(engine: str) -> str:
    """Raises EngineSettingError where it is not installed."""
    configured: str = settings.ENGINE_EXECUTABLES[engine]
    found = shutil.which(configured)
    if found is None:
        raise EngineSettingError("engine", f"{engine} is not installed on this machine: set ATRIUM_{engine.upper()}.")
    return found


@lru_cache(maxsize=8)
def find_version(engine: str, executable: str) -> Version:
    """Of what is installed: the package's own word where there is one, which is much quicker than to start it."""
    commands = [[executable, "--version"]]
    if package := _PACKAGES.get(engine):
        python = executable if engine == "sglang" else str(Path(executable).with_name("python"))
        code = f"from importlib.metadata import version; print(version({package!r}))"
        commands = [[python, "-c", code], *(commands if engine != "sglang" else [])]
    for command in commands:
        try:
            answer = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                timeout=VERSION_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        version = parse_version(answer.stdout)
        if answer.returncode == 0 and version is not None:
            return version
    raise EngineSettingError("engine", f"The version of {engine} at {executable} cannot be found.")


def get_health(replica_id: str, host: str, port: int, token: str) -> Health | None:
    """How a process that runs is: loading while nothing listens, ready when it says so. None: it says nothing."""
    try:
        status, _ = _get(host, port, "/health", token)
    except ConnectionRefusedError:
        return Health("loading", stage="loading")
    except (OSError, http.client.HTTPException):
        return None
    if status != 200:
        return Health("loading", stage="loading")
    try:
        _, metrics = _get(host, port, "/metrics", token)
        return Health("ready", info=_find_info(host, port, token), idle_s=_find_idle_s(replica_id, metrics.decode()))
    except (OSError, http.client.HTTPException, ValueError):
        return None


def find_reason(replica_id: str) -> str:
    """Why it ended, from its log: the first error of the last start that says something."""
    lines = launcher.read_log_tail(replica_id, LOG_LINES).splitlines()
    reasons = [found[0] for line in lines if (found := _REASON.search(line))]
    useful = [reason for reason in reasons if "See root cause" not in reason]
    return (useful or reasons or lines[-1:] or ["Loading failed."])[0][:500]


def read_activity(metrics: str) -> tuple[bool, float]:
    """Whether requests run or wait, and how many have ended. Pure."""
    active = sum(float(number) for number in _ACTIVE.findall(metrics))
    return active > 0, sum(float(number) for number in _ENDED.findall(metrics))


def _find_idle_s(replica_id: str, metrics: str) -> float | None:
    """Since when the same number of requests has ended, and none runs: kept in the replica's folder between looks."""
    is_active, num_ended = read_activity(metrics)
    file = launcher.get_folder(replica_id) / "activity.json"
    if is_active:
        file.unlink(missing_ok=True)
        return None
    try:
        known, since = json.loads(file.read_text())
    except (OSError, ValueError):
        known, since = None, 0.0
    if known != num_ended:
        since = time.time()
        file.write_text(json.dumps([num_ended, since]))
    return max(0.0, time.time() - since)


def _find_info(host: str, port: int, token: str) -> dict[str, Any]:
    """What /v1/models says of the one model: vLLM and SGLang name its context."""
    status, body = _get(host, port, "/v1/models", token)
    models = json.loads(body).get("data") if status == 200 else None
    context = models[0].get("max_model_len") if models else None
    return {"max_model_len": context} if context else {"engine": "http"}


def _get(host: str, port: int, path: str, token: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _find_free_ports(count: int) -> tuple[int, ...]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(listener.getsockname()[1] for listener in listeners)
