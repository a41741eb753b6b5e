"""Loads what turns pictures and recordings into a model's inputs, where a repository has it. Knows no request.

Image processors come in a form that needs PIL alone, and that is the one used where torchvision is absent. Video
processors do not: a processor that wants one is then given a stand-in that nobody calls.
"""

import logging
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

logger = logging.getLogger(__name__)

# What reading a processor's files may raise: a file that is missing or wrong, a package that is not there.
_LOAD_ERRORS = (OSError, ValueError, ImportError, LookupError, TypeError, AttributeError)


class ProcessorError(Exception):
    """The model could take more than text, but its processor cannot be loaded; the message says why in a sentence."""


class _NoVideos:
    """Stands where a video processor would: videos are never processed."""


def takes_pictures(config: Any) -> bool:
    """Whether models of this configuration read pictures beside text."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def takes_recordings(config: Any) -> bool:
    """Whether models of this configuration listen, and have one language model that answers."""
    has_parts = all(getattr(config, name, None) is not None for name in ("text_config", "audio_config"))
    return has_parts and type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING


def load_processor(folder: Path, *, trust_remote_code: bool) -> ProcessorMixin:
    """The processor of a model that takes more than text. Raises ProcessorError."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        processor_class = PROCESSOR_MAPPING.get(type(config), None)
        if processor_class is None or is_torchvision_available():
            return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if "video_processor" not in processor_class.get_attributes():
            return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        return _load_without_videos(folder, processor_class, trust_remote_code)
    except _LOAD_ERRORS as error:
        logger.info("the processor could not be loaded", exc_info=True)
        text = " ".join(str(error).split())
        raise ProcessorError(f"Its processor cannot be loaded: {text or type(error).__name__}") from error


def _load_without_videos(
    folder: Path, processor_class: type[ProcessorMixin], trust_remote_code: bool
) -> ProcessorMixin:
    class WithoutVideos(processor_class):
        """The same processor; nothing checks that its video processor is one."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return _NoVideos
            return super().check_argument_for_proper_class(argument_name, argument)

        def __repr__(self) -> str:
            return f"{processor_class.__name__} without videos"  # the inherited one writes its parts as JSON

    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code),
        "tokenizer": AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code),
        "video_processor": _NoVideos(),
    }
    settings, _ = processor_class.get_processor_dict(folder)
    given = [parts[name] for name in WithoutVideos.get_attributes()]
    return WithoutVideos.from_args_and_dict(given, settings)
