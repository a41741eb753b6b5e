"""Loads a speech model with everything it is served with. Runs in the engine thread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq

from gpu_worker.loader import make_load_error, read_model
from gpu_worker.protocol import ModelInfo, WorkerConfig, find_commit
from gpu_worker.quantization import describe_quantization
from gpu_worker.tasks.transcription.engine import TranscriptionEngine
from gpu_worker.tasks.transcription.frontend import SpeechModel, TranscriptionFrontend
from gpu_worker.tasks.transcription.whisper import WhisperRunner


class LoadedTranscription(NamedTuple):
    """An engine, its frontend, and what the worker says of both."""

    engine: TranscriptionEngine
    frontend: TranscriptionFrontend
    info: ModelInfo


def load_transcription(
    config: WorkerConfig, folder: Path, on_progress: Callable[[float, str], None]
) -> LoadedTranscription:
    """Raises LoadError."""
    tokenizer, model = read_model(folder, config, on_progress, AutoModelForSpeechSeq2Seq)
    try:
        feature_extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=config.runs_own_code)
    except (OSError, ValueError, KeyError) as error:
        raise make_load_error(error, config, folder) from error
    info = ModelInfo(
        architecture=type(model).__name__,
        engine="transcription",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        max_model_len=model.config.max_target_positions,
        vocab_size=model.config.vocab_size,
        num_blocks=config.max_num_seqs,
        revision=find_commit(folder),
        quantization=describe_quantization(model),
        task="transcribe",
    )
    return LoadedTranscription(
        engine=TranscriptionEngine(WhisperRunner(model, feature_extractor), max_num_seqs=config.max_num_seqs),
        frontend=TranscriptionFrontend(tokenizer, _describe(model, feature_extractor)),
        info=info,
    )


def _describe(model: Any, feature_extractor: Any) -> SpeechModel:
    generation = model.generation_config
    is_multilingual = getattr(generation, "is_multilingual", True)
    language_ids = (is_multilingual and getattr(generation, "lang_to_id", None)) or {}
    tasks = getattr(generation, "task_to_id", None) or {}
    return SpeechModel(
        sampling_rate=feature_extractor.sampling_rate,
        window_s=feature_extractor.n_samples / feature_extractor.sampling_rate,
        max_target_positions=model.config.max_target_positions,
        language_codes=frozenset(token.strip("<|>") for token in language_ids),
        is_english=not is_multilingual,
        can_translate=bool(language_ids) and "translate" in tasks,
        has_timestamps=hasattr(generation, "no_timestamps_token_id"),
        has_alignment_heads=bool(getattr(generation, "alignment_heads", None)),
    )
