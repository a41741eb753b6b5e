"""What a model repository is for, by its own files. Reads JSON; loads nothing."""

import json
from pathlib import Path
from typing import Any

from gpu_worker.protocol import Task

# Encoders, and decoders without the layer that makes words: they answer with vectors.
_EMBEDDERS = ("Model", "EncoderModel", "ForMaskedLM", "ForPreTraining")
_GENERATORS = ("LMHeadModel", "DoubleHeadsModel")


def detect_task(folder: Path) -> Task:
    """By sentence-transformers' files, then by the architecture's name; `generate` where neither says anything."""
    if (folder / "modules.json").is_file():
        kind = _read(folder / "config_sentence_transformers.json").get("model_type")
        return "score" if kind == "CrossEncoder" else "embed"
    architecture = str((_read(folder / "config.json").get("architectures") or [""])[0])
    if architecture == "WhisperForConditionalGeneration":
        return "transcribe"
    if architecture.endswith("ForSequenceClassification"):
        return "score"
    if architecture.endswith(_EMBEDDERS) and not architecture.endswith(_GENERATORS):
        return "embed"
    return "generate"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # whoever reads the file for what is in it says what is wrong
        return {}
    return content if isinstance(content, dict) else {}
