"""`manage.py serve` as a whole: one command up, one Ctrl-C down, and what a kill -9 leaves behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import httpx
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.live.installation import API_KEY, find_free_port, wait_until
from tests.tiny_adapters import make_adapter
from tests.worker_process import DEMO_MODEL

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("serve")]


class Serve:
    """One `manage.py serve` in a data folder."""

    started: ClassVar[list["Serve"]] = []

    def __init__(self, data_dir: Path, *arguments: str, port: int | None = None) -> None:
        self.port = port or find_free_port()
        self.log_path = data_dir / "serve.log"
        data_dir.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", str(self.port), *arguments],
                cwd=ROOT,
                env=environment | {"ATRIUM_DATA_DIR": str(data_dir), "ATRIUM_API_KEY": API_KEY},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(self)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log
            return "\nReady: " in self.log

        wait_until(is_ready, 120, "serve is ready")

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def ask(self, **options) -> httpx.Response:
        body = {"model": "atrium-demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return httpx.post(url, json=body | options, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=60)

    def press_ctrl_c(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def find_processes(data_dir: Path) -> dict[str, psutil.Process]:
    """Every process that works in this data folder: web and celery by environment, workers by command line."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = process.cmdline()
            ours = process.environ().get("ATRIUM_DATA_DIR") == str(data_dir) or str(data_dir) in " ".join(command)
            for name in ("uvicorn", "celery", "gpu_worker", "serve"):
                if ours and name in command:
                    found[name] = process
    return found


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    for process in find_processes(tmp_path / "data").values():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    while Serve.started:
        Serve.started.pop().process.wait(30)


def test_up_with_one_command_and_down_with_one_ctrl_c(data_dir, tmp_path):
    make_adapter(AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32), tmp_path / "tuned")
    serve = Serve(data_dir, "--enable-cors", "--lora", f"team/tuned={tmp_path / 'tuned'}")
    serve.wait_ready()
    assert set(find_processes(data_dir)) == {"uvicorn", "celery", "gpu_worker", "serve"}
    answer = serve.ask()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    tuned = serve.ask(model="team/tuned")
    assert tuned.status_code == 200, tuned.text
    assert tuned.json()["choices"] != answer.json()["choices"]
    preflight = httpx.options(
        f"http://127.0.0.1:{serve.port}/v1/models",
        headers={"Origin": "https://page.example", "Access-Control-Request-Method": "GET"},
    )
    assert preflight.headers["access-control-allow-origin"] in ("*", "https://page.example")
    assert serve.press_ctrl_c() == 0, serve.log
    assert find_processes(data_dir) == {}
    assert "Traceback" not in serve.log
    assert not list((data_dir / "replicas").iterdir())


def test_after_kill_9_the_children_leave_and_the_next_run_adopts_the_worker(data_dir):
    first = Serve(data_dir)
    first.wait_ready()
    before = find_processes(data_dir)
    first.process.kill()
    first.process.wait()
    wait_until(lambda: set(find_processes(data_dir)) == {"gpu_worker"}, 30, "web and celery have noticed")
    second = Serve(data_dir, port=first.port)
    second.wait_ready()
    assert find_processes(data_dir)["gpu_worker"].pid == before["gpu_worker"].pid
    assert second.ask().status_code == 200
    assert second.press_ctrl_c() == 0, second.log
    assert find_processes(data_dir) == {}


def test_when_everything_was_killed_the_next_run_starts_anew(data_dir):
    first = Serve(data_dir)
    first.wait_ready()
    for process in find_processes(data_dir).values():
        process.kill()
    first.process.wait()
    second = Serve(data_dir)
    second.wait_ready()
    assert second.ask().status_code == 200
    assert second.press_ctrl_c() == 0, second.log


def test_a_second_serve_on_the_same_data_folder_is_refused(data_dir):
    first = Serve(data_dir)
    wait_until(first.listens, 60, "the first one listens")
    second = Serve(data_dir.parent / "other", port=first.port)
    assert second.process.wait(60) != 0
    assert "Cannot listen" in second.log
    third = subprocess.run(
        [sys.executable, "manage.py", "serve", "--port", str(find_free_port())],
        cwd=ROOT, env=os.environ | {"ATRIUM_DATA_DIR": str(data_dir)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert third.returncode != 0
    assert "Another `serve` runs" in third.stderr
    assert first.press_ctrl_c() == 0, first.log


def test_a_port_in_use_is_told_before_anything_starts(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as other:
        serve = Serve(data_dir, "--host", "127.0.0.1", port=other.getsockname()[1])
        assert serve.process.wait(60) != 0
    assert "Cannot listen on 127.0.0.1" in serve.log
    assert "--port" in serve.log
    assert not (data_dir / "atrium.sqlite3").exists()


def test_a_model_that_cannot_be_loaded_ends_serve_with_the_reason(data_dir, tmp_path):
    (tmp_path / "empty-model").mkdir()
    serve = Serve(data_dir, str(tmp_path / "empty-model"))
    assert serve.process.wait(120) != 0
    assert "empty-model cannot be loaded" in serve.log
    assert "config.json" in serve.log
    assert find_processes(data_dir) == {}


def test_a_pinned_server_answers_400_for_other_names(data_dir):
    serve = Serve(data_dir, "--force-model", str(ROOT / "demo_model"))
    serve.wait_ready()
    assert serve.ask(model="demo_model").status_code == 200
    refused = serve.ask(model="atrium-demo")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "model"
    assert serve.press_ctrl_c() == 0


def test_a_model_timeout_unloads_and_the_next_request_loads_again(data_dir):
    serve = Serve(data_dir, "--model-timeout", "2")
    serve.wait_ready()
    wait_until(lambda: "gpu_worker" not in find_processes(data_dir), 60, "the idle model is unloaded")
    answer = serve.ask()
    assert answer.status_code == 200, answer.text
    assert serve.press_ctrl_c() == 0
