"""A worker from its start to its end: loading, failing, draining, dying."""

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from gpu_worker.protocol import Delta, Failed, Finished, Loading, Ready, decode_from_worker
from tests.worker.link import WAIT_S, chat, open_link
from tests.worker_process import DEMO_MODEL, ROOT, WorkerProcess, run_worker

LONG = {"max_tokens": 20_000, "ignore_eos": True}
SMALL = {"num_blocks": 64, "max_model_len": 1024}


async def wait_for_exit(worker: WorkerProcess) -> int:
    return await asyncio.to_thread(worker.process.wait, WAIT_S)


async def test_server_answers_while_the_model_loads() -> None:
    with run_worker(wait_until_ready=False, **SMALL) as worker:
        status, health = await asyncio.to_thread(worker.get_health)
        assert status == 503
        assert health["status"] == "loading"
        async with open_link(worker, wait_until_ready=False) as link:
            (failed,) = (await link.ask(chat("early", "Hello!"))).events
            assert failed.code == "not_ready"
            ready = await link.wait_ready()
            assert ready.info.architecture
            assert isinstance((await link.ask(chat("now", "Hello!"))).end, Finished)
        assert await asyncio.to_thread(worker.stop) == 0


@pytest.mark.slow
async def test_loading_is_told_as_it_changes_and_then_ready() -> None:
    with run_worker(wait_until_ready=False, **SMALL) as worker:
        events = []
        async with connect(worker.url, additional_headers=worker.headers) as socket, asyncio.timeout(WAIT_S):
            while not events or not isinstance(events[-1], Ready):
                events += decode_from_worker(await socket.recv())
        *loading, _ready = events
        assert all(isinstance(event, Loading) for event in loading)
        progress = [event.progress for event in loading]
        assert progress == sorted(progress)
        assert len(set(progress)) > 3


@pytest.mark.slow
async def test_load_failure_is_told_and_ends_the_process(tmp_path: Path) -> None:
    with run_worker(tmp_path / "missing", wait_until_ready=False) as worker:
        health = await asyncio.to_thread(worker.wait_for, "failed")
        assert "missing" in health["error"]
        assert await wait_for_exit(worker) == 3
        assert worker.log.splitlines()[-1] == health["error"]


@pytest.mark.slow
async def test_broken_weights_are_a_load_failure(tmp_path: Path) -> None:
    for file in DEMO_MODEL.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with run_worker(tmp_path, wait_until_ready=False) as worker:
        async with open_link(worker, wait_until_ready=False) as link:
            await link.socket.wait_closed()
        assert link.socket.close_code == 1011
        assert "could not be loaded" in (link.socket.close_reason or "")
        worker.process.send_signal(signal.SIGTERM)  # no need to linger
        assert await wait_for_exit(worker) == 3


@pytest.mark.slow
async def test_sigterm_lets_running_requests_finish_and_refuses_new_ones() -> None:
    with run_worker(**SMALL) as worker:
        async with open_link(worker) as link:
            await link.send(chat("runs", "Tell me a story.", max_tokens=300, ignore_eos=True))
            await link.wait_for("runs", Delta)
            worker.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(worker.wait_for, "draining")
            (failed,) = (await link.ask(chat("late", "Hello!"))).events
            assert failed.code == "not_ready"
            finished = await link.wait_for("runs", Finished)
            assert finished.usage.completion_tokens == 300
            await link.socket.wait_closed()
            assert link.socket.close_code == 1001
        assert await wait_for_exit(worker) == 0


@pytest.mark.slow
async def test_drain_hands_back_what_outlasts_the_grace_period() -> None:
    with run_worker(max_model_len=32_768, num_blocks=2048, drain_grace_s=0.2) as worker:
        async with open_link(worker) as link:
            await link.send(chat("runs", "Tell me a story.", **LONG))
            await link.wait_for("runs", Delta)
            worker.process.send_signal(signal.SIGTERM)
            failed = await link.wait_for("runs", Failed)
            assert failed.code == "not_ready"
            assert failed.usage.completion_tokens > 0
        assert await wait_for_exit(worker) == 0


@pytest.mark.slow
async def test_second_signal_ends_the_process_at_once() -> None:
    with run_worker(max_model_len=32_768, num_blocks=2048) as worker:
        async with open_link(worker) as link:
            await link.send(chat("runs", "Tell me a story.", **LONG))
            await link.wait_for("runs", Delta)
            worker.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(worker.wait_for, "draining")
            worker.process.send_signal(signal.SIGTERM)
            assert await wait_for_exit(worker) == 128 + signal.SIGTERM


@pytest.mark.slow
async def test_sigterm_during_loading_ends_the_process() -> None:
    with run_worker(wait_until_ready=False) as worker:
        await asyncio.to_thread(worker.get_health)
        worker.process.send_signal(signal.SIGTERM)
        assert await wait_for_exit(worker) == 0


@pytest.mark.slow
async def test_death_of_the_worker_is_seen_at_once() -> None:
    with run_worker(**SMALL) as worker:
        async with open_link(worker) as link:
            await link.send(chat("runs", "Tell me a story.", max_tokens=900, ignore_eos=True))
            await link.wait_for("runs", Delta)
            os.kill(worker.process.pid, signal.SIGKILL)
            start_s = time.monotonic()
            await link.socket.wait_closed()
            assert time.monotonic() - start_s < 0.5
        with pytest.raises(OSError):  # noqa: PT011
            await asyncio.to_thread(worker.get_health)


async def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    with run_worker(wait_until_ready=False, tls_cert=str(certificate), tls_key=str(key)) as worker:
        trust = ssl.create_default_context(cafile=str(certificate))
        url = worker.url.replace("ws://", "wss://")
        async with connect(url, additional_headers=worker.headers, ssl=trust) as socket:
            (event,) = decode_from_worker(await socket.recv())
            assert isinstance(event, Loading)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "model"),
        (["--model", "x", "--max-num-seqs", "many"], "max_num_seqs"),
        (["--model", "x", "--host", "0.0.0.0"], "token is required"),
        (["--model", "x", "--tls-cert", "c.pem"], "go together"),
        (["--config", "nowhere.json"], "nowhere.json"),
        (["--model", "x", "--log-level", "loud"], "log level"),
    ],
)
def test_bad_configuration_is_explained(arguments: list[str], complaint: str) -> None:
    result = run_by_hand(*arguments)
    assert result.returncode == 2
    assert complaint in result.stderr.splitlines()[-1]


def run_by_hand(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpu_worker", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_config_file_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    path.write_text(json.dumps({"model": "x", "max_tokens": 3}))
    result = run_by_hand("--config", str(path))
    assert result.returncode == 2
    assert "max_tokens" in result.stderr
