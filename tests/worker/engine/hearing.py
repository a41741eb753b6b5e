"""Prompts with recordings for the tiny models that listen, and what transformers itself answers to them."""

import functools
import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoTokenizer

from gpu_worker.engine.request import Request
from gpu_worker.frontend.media import MediaReader
from gpu_worker.frontend.pictures import MediaRef
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.processor import load_processor
from gpu_worker.tasks.transcription.audio import decode_audio
from tests.recordings import RATE, make_recording
from tests.tiny_listening import FAMILIES, make_listening_folder, make_listening_model
from tests.worker.engine.driving import make_request


@functools.cache
def make_reader(family: str) -> MediaReader:
    """The family's processor as a worker uses it; all who ask get the same."""
    folder = make_listening_folder(family)
    return MediaReader(
        load_processor(folder, trust_remote_code=False), TextTokenizer(AutoTokenizer.from_pretrained(folder))
    )


@dataclass
class Sound:
    """Text and recordings of one prompt, in order; a recording is its seed and its length in seconds."""

    family: str
    parts: list[str | tuple[int, float]]
    files: list[bytes] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        for part in self.parts:
            if isinstance(part, str):
                self.text += part
            else:
                self.files.append(make_recording(part[1], seed=part[0]))
                self.text += FAMILIES[self.family]["recording"]

    def make_request(self, request_id: str, **fields: Any) -> Request:
        """The engine's request, made as the worker makes it."""
        reader = make_reader(self.family)
        if not self.files:
            return make_request(request_id, reader._tokenizer.encode(self.text, add_special_tokens=False), **fields)
        keys = [hashlib.sha256(file).hexdigest() for file in self.files]
        refs = [MediaRef(key, f"recording {index}", "audio") for index, key in enumerate(keys)]
        prompt, read = reader.read([self.text], refs, dict(zip(keys, self.files, strict=True)))
        return make_request(request_id, prompt, media=read, **fields)

    @torch.inference_mode()
    def generate(self, request: Request) -> list[int]:
        """What transformers answers, greedily, by the processor's own way from text and recordings to inputs."""
        recordings = [decode_audio(file, RATE) for file in self.files]
        processor = load_processor(make_listening_folder(self.family), trust_remote_code=False)
        if recordings:
            inputs = dict(processor(text=[self.text], audio=recordings, return_tensors="pt"))
        else:
            inputs = {"input_ids": torch.tensor([request.prompt_token_ids])}
        assert inputs["input_ids"][0].tolist() == request.prompt_token_ids
        output = make_listening_model(self.family).generate(
            **inputs,
            max_new_tokens=request.max_tokens,
            do_sample=False,
            eos_token_id=list(request.eos_token_ids) or [9999],  # a token that never comes
            pad_token_id=256,
        )
        return output[0, inputs["input_ids"].shape[1] :].tolist()
