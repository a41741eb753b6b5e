"""Memory of a worker: its peak while it loads a model, and what an engine on plain torch keeps for each shape it meets.

    python -m bench.memory load                   # the demo model and random weights in the shapes of Qwen2.5-0.5B
    python -m bench.memory growth --model 28m     # prompts of random lengths, with rows rounded up and without

Each row is measured in a process of its own.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.engine import build_random_model
from tests.process_memory import count_heap_bytes, read_status_bytes
from tests.worker_process import DEMO_MODEL, run_worker

MB = 2**20
KV_CACHE_BYTES = 128 * MB
NUM_BLOCKS, NUM_USERS, NUM_SAMPLES = 320, 4, 4


def run_alone(function: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def measure_imports() -> float:
    """Peak of a process that has imported what a worker imports, and no more."""
    import gpu_worker.engine.build
    import gpu_worker.loader
    import gpu_worker.server.process  # noqa: F401

    return read_status_bytes("VmHWM") / MB


def measure_load(model: Path, compile_mode: str) -> list[float]:
    """Peak until it is ready, then what is resident: in all, and of it pages of files."""
    with run_worker(
        model, wait_until_ready=False, compile=compile_mode, num_threads=2, kv_cache_bytes=KV_CACHE_BYTES
    ) as worker:
        worker.wait_for("ready", 600)
        return [read_status_bytes(name, worker.process.pid) / MB for name in ("VmHWM", "VmRSS", "RssFile")]


def print_load() -> None:
    base_mb = run_alone(measure_imports)
    print(f"imports alone: {base_mb:.0f} MB\n")
    print("| model | compile | weights MB | peak MB | resident MB (files) | peak beyond imports, of the weights |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("demo", DEMO_MODEL), ("0.5b", build_random_model("0.5b", Path(folder)))):
            weights_mb = sum(file.stat().st_size for file in model.glob("*.safetensors")) / MB
            for compile_mode in ("off", "on"):
                peak, resident, files = measure_load(model, compile_mode)
                cells = f"{weights_mb:.0f} | {peak:.0f} | {resident:.0f} ({files:.0f})"
                print(f"| {name} | {compile_mode} | {cells} | x{(peak - base_mb) / weights_mb:.2f} |", flush=True)


def measure_growth(name: str, rows_step: int | None, num_prompts: int) -> list[str]:
    """Heap in use and resident memory after each quarter of the prompts, then tokens per second of the last one."""
    from bench.invariance import load_model
    from gpu_worker.engine.build import build_engine
    from gpu_worker.engine.request import Request
    from gpu_worker.protocol import Sampling, WorkerConfig

    sizes = {"max_model_len": 1024, "num_blocks": NUM_BLOCKS, "max_num_seqs": 8}
    engine = build_engine(load_model(name), WorkerConfig(model=name, engine="paged", compile="off", **sizes)).engine
    if rows_step is not None:
        engine._runner.rows_step = rows_step
    rng = random.Random(0)
    cells = []
    for _ in range(NUM_SAMPLES):
        started_s, num_tokens = time.perf_counter(), 0
        for start in range(0, num_prompts // NUM_SAMPLES, NUM_USERS):
            for index in range(start, start + NUM_USERS):
                length = rng.choice((rng.randint(5, 60), rng.randint(60, 300), rng.randint(300, 900)))
                prompt = rng.choices(range(100, 5000), k=length)
                engine.add(Request(f"r{index}", prompt, Sampling(seed=0, temperature=0.0), rng.randint(2, 10)))
                num_tokens += length
            while engine.has_work():
                engine.step()
        cells.append(f"{count_heap_bytes() / MB:.0f} ({read_status_bytes('VmRSS') / MB:.0f})")
    return [*cells, f"{num_tokens / (time.perf_counter() - started_s):.0f}"]


def print_growth(name: str, num_prompts: int) -> None:
    columns = " | ".join(str(num_prompts * (index + 1) // NUM_SAMPLES) for index in range(NUM_SAMPLES))
    print(f"| {name}, heap in use (resident) MB after so many prompts | {columns} | tok/s |\n{'|---' * 6}|")
    for label, rows_step in (("every length by itself", 1), ("rows rounded up", None)):
        cells = run_alone(measure_growth, name, rows_step, num_prompts)
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "growth"])
    parser.add_argument("--model", default="demo", help="for growth: demo, 28m or 0.5b")
    parser.add_argument("--prompts", type=int, default=800)
    options = parser.parse_args()
    if options.what == "load":
        print_load()
    else:
        print_growth(options.model, options.prompts)


if __name__ == "__main__":
    main()
