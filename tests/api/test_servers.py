"""The same application under the other ASGI servers that people start: daphne, and runserver in development."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.api.conftest import Api
from tests.api.sse import parse_events, stream
from tests.scripted_worker import ScriptedWorker
from tests.web_process import MODEL, ROOT, SECRET, find_free_port, run_web_process, stop_process

START_TIMEOUT_S = 30.0
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
COMMANDS = {
    "daphne": ["-m", "daphne", "-p", "{port}", "project.asgi:application"],
    "runserver": ["manage.py", "runserver", "--noreload", "{port}"],
}


@contextmanager
def serve(name: str, environment: dict[str, str]) -> Iterator[Api]:
    """The server as a process, once it answers."""
    port = find_free_port()
    command = [sys.executable, *(part.format(port=port) for part in COMMANDS[name])]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            api = Api(f"http://127.0.0.1:{port}", SECRET)
            wait_until_healthy(api)
            yield api
        finally:
            stop_process(process)


def wait_until_healthy(api: Api) -> None:
    """Until GET /health answers."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            assert httpx.get(f"{api.url}/health").status_code == 200
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline_s, "the server did not start"
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_other_servers_stream_and_cancel(tmp_path: Path, worker: ScriptedWorker, name: str) -> None:
    with (
        run_web_process(tmp_path, worker_ports=[worker.port], worker_token=worker.token) as web,
        serve(name, web.environment) as api,
    ):
        text = api.post("/v1/chat/completions", HELLO | {"stream": True}).text
        assert (
            "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in parse_events(text)) == "Hello, world!"
        )
        assert text.endswith("data: [DONE]\n\n")
        assert api.post("/v1/chat/completions", {}).json()["error"]["param"] == "model"
        with api.client() as client:
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [MODEL]

        worker.say("a", "b", hold_after=1)
        with stream(api, "/v1/chat/completions", HELLO | {"stream": True}):
            worker.wait_for(lambda worker: worker.num_running == 1)
        worker.wait_for(lambda worker: worker.num_running == 0 and len(worker.aborted) == 1)
