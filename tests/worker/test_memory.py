"""Weights are in memory once: pages of their file that were copied are given back."""

from pathlib import Path

import torch

from gpu_worker.file_pages import MappedFiles
from tests.process_memory import count_resident_bytes
from tests.worker_process import DEMO_MODEL, run_worker

NUM_BYTES = 4 * 2**20
WEIGHTS = DEMO_MODEL / "model.safetensors"


def map_file(path: Path) -> torch.Tensor:
    """As weights are."""
    path.write_bytes(b"\x07" * NUM_BYTES)
    return torch.from_file(str(path), shared=False, size=NUM_BYTES, dtype=torch.uint8)


def test_pages_of_a_mapped_file_are_given_back_and_read_again(tmp_path: Path) -> None:
    content = map_file(tmp_path / "weights")
    files = MappedFiles()
    assert content.min() == 7
    assert count_resident_bytes(tmp_path / "weights") == NUM_BYTES
    files.release()
    assert count_resident_bytes(tmp_path / "weights") == 0
    assert content.min() == content.max() == 7


def test_what_was_written_is_kept(tmp_path: Path) -> None:
    content = map_file(tmp_path / "weights")
    content[5] = 8
    MappedFiles().release()
    assert content[5] == 8


def test_a_worker_gives_back_what_it_has_quantized() -> None:
    """What stays mapped is what was not: embeddings, which are looked at by rows, and norms."""
    with run_worker(quantization="int8") as worker:
        assert count_resident_bytes(WEIGHTS, worker.process.pid) < WEIGHTS.stat().st_size
