"""The processes of docker-compose.yml, with its own commands, against real PostgreSQL and Redis."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.deploy.compose import ROOT, interpolate, parse, read_compose_text
from tests.live.installation import API_KEY, find_free_port, wait_until
from tests.servers import run_postgres, run_redis

HELLO = {
    "model": "atrium-demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16, "temperature": 0,
}  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Production:
    """Runs services of the compose file as processes of this machine."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        secrets = {"POSTGRES_PASSWORD": "pg", "REDIS_PASSWORD": "rd", "ATRIUM_SECRET_KEY": "s" * 50}
        secrets |= {"ATRIUM_API_KEY": API_KEY, "ATRIUM_ADMIN_PASSWORD": "an-admin-password"}
        self.services = parse(interpolate(read_compose_text(), secrets))["services"]
        self.folder = folder
        # What differs from the containers: addresses, and one data folder for all.
        self.local = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ATRIUM_NODE_ADDRESS": "127.0.0.1",
            "ATRIUM_NODE_BIND_HOST": "127.0.0.1",
            "ATRIUM_DATA_DIR": str(folder),
            "ATRIUM_FILES_DIR": str(folder / "files"),
            "ATRIUM_WORKER_OMP_WAIT_POLICY": "passive",
            "ATRIUM_WORKER_COMPILE": "off",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, name: str, **replaced: str) -> None:
        """Start one process of a service, with some of its arguments replaced."""
        command = [replaced.get(part.partition("=")[0].lstrip("-"), part) for part in self.services[service]["command"]]
        environment = {key: str(value) for key, value in self.services[service]["environment"].items() if value}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=ROOT, env=environment | self.local, stdout=log, stderr=subprocess.STDOUT
            )

    def read_log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def manage(self, *arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT, env=self.local | {"ATRIUM_SECRET_KEY": "s" * 50}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return result.stdout

    def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)


@pytest.fixture
def production(tmp_path: Path) -> Iterator[Production]:
    for name in ("data", "redis"):
        (tmp_path / name).mkdir()
    with run_postgres() as database_url, run_redis(tmp_path / "redis") as redis_url:
        production = Production(tmp_path / "data", database_url, redis_url)
        try:
            yield production
        finally:
            for process in production.processes.values():
                process.kill()
                process.wait()
            for identity in (tmp_path / "data" / "replicas").glob("*/process.json"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(identity.read_text().strip("[]").split(",")[0]), signal.SIGKILL)


def answer_in_a_batch(ports: list[int]) -> dict[str, str]:
    """The message that is the answer to HELLO: sent through one web process, read through another."""
    clients = [
        httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", headers={"Authorization": f"Bearer {API_KEY}"}, timeout=60)
        for port in ports
    ]
    line = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": HELLO}
    with clients[0] as first, clients[1] as second:
        file = first.post("/files", files={"file": json.dumps(line).encode()}, data={"purpose": "batch"}).json()
        body = {"input_file_id": file["id"], "endpoint": line["url"], "completion_window": "24h"}
        path = f"/batches/{first.post('/batches', json=body).json()['id']}"
        wait_until(lambda: second.get(path).json()["status"] == "completed", 60, "the batch is complete")
        output = second.get(f"/files/{second.get(path).json()['output_file_id']}/content").json()
    return output["response"]["body"]["choices"][0]["message"]


def test_the_services_answer_a_chat_and_stop(production):
    production.start("bootstrap", "bootstrap")
    assert production.processes.pop("bootstrap").wait(120) == 0, production.read_log("bootstrap")
    ports = [find_free_port(), find_free_port()]
    for port in ports:
        production.start("web", f"web-{port}", host="--host=127.0.0.1", port=f"--port={port}", workers="--workers=1")
    production.start("celery", "celery")
    production.start("beat", "beat")

    def is_up(port: int) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
        return False

    for port in ports:
        wait_until(lambda port=port: is_up(port), 60, f"web on {port} is ready")
    wait_until(lambda: "ready." in production.read_log("celery"), 60, "celery is ready")
    for port in ports:  # the first loads the model, the second process finds it loaded
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json=HELLO,
            headers={"Authorization": f"Bearer {API_KEY}"},
            timeout=120,
        )
        assert answer.status_code == 200, f"{answer.text}\n{production.read_log('celery')}"
        assert answer.json()["choices"][0]["message"]["content"]
    assert answer_in_a_batch(ports) == answer.json()["choices"][0]["message"]
    with psycopg.connect(production.local["DATABASE_URL"], autocommit=True) as database:
        where = "SELECT node.name, state FROM registry_replica JOIN registry_node node ON node.id = node_id"
        is_ready = [("gpu-1", "ready")].__eq__
        wait_until(lambda: is_ready(database.execute(where).fetchall()), 20, "the one replica is known to be ready")

    production.manage("models", "unload", "atrium-demo")
    wait_until(lambda: not production.manage("models", "status"), 60, "the worker has been stopped")
    codes = {name: production.stop(name) for name in list(production.processes)}
    web_codes = [codes.pop(f"web-{port}") for port in ports]
    assert web_codes == [-signal.SIGTERM] * 2  # uvicorn shuts down in order, then passes the signal on
    assert codes == {"celery": 0, "beat": 0}
    for name in ("celery", "beat", *[f"web-{port}" for port in ports]):
        assert "Traceback" not in production.read_log(name), production.read_log(name)
