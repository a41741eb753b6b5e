"""One torch thread, as in the engine's tests, and a tiny speech model loaded as a worker loads it."""

from pathlib import Path

import pytest
import torch

from gpu_worker.protocol import WorkerConfig
from gpu_worker.tasks.transcription.load import LoadedTranscription, load_transcription
from tests.tiny_whisper import save_tiny_whisper

torch.set_num_threads(1)


def load_tiny_whisper(folder: Path) -> LoadedTranscription:
    """What a worker serves of this folder."""
    return load_transcription(WorkerConfig(model=str(folder)), folder, lambda progress, stage: None)


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def english_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one language that aligns no words."""
    return save_tiny_whisper(tmp_path_factory.mktemp("whisper-en"), multilingual=False, alignment_heads=False)


@pytest.fixture
def loaded(whisper_folder: Path) -> LoadedTranscription:
    return load_tiny_whisper(whisper_folder)
