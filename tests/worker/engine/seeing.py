"""Prompts with pictures for the tiny models that see, and what transformers itself answers to them."""

import functools
import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer

from gpu_worker.engine.request import Request
from gpu_worker.frontend.media import MediaReader
from gpu_worker.frontend.pictures import MediaRef
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.processor import load_processor
from tests.tiny_vision import FAMILIES, make_folder, make_picture, make_vision_model
from tests.worker.engine.driving import make_request


@functools.cache
def make_reader(family: str) -> MediaReader:
    """The family's processor as a worker uses it; all who ask get the same."""
    return build_reader(family)


def build_reader(family: str) -> MediaReader:
    """One that nobody else has."""
    tokenizer = TextTokenizer(AutoTokenizer.from_pretrained(make_folder(family)))
    return MediaReader(load_processor(make_folder(family), trust_remote_code=False), tokenizer)


@dataclass
class Scene:
    """Text and pictures of one prompt, in order; a picture is the number it is drawn from and its size."""

    family: str
    parts: list[str | tuple[int, tuple[int, int]]]
    files: list[bytes] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        for part in self.parts:
            if isinstance(part, str):
                self.text += part
            else:
                self.files.append(make_picture(*part))
                self.text += FAMILIES[self.family]["picture"]

    def make_request(self, request_id: str, **fields: Any) -> Request:
        """The engine's request, made as the worker makes it."""
        reader = make_reader(self.family)
        if not self.files:
            encode = reader._tokenizer.encode
            prompt = reader.find_prefix(self.text) + encode(self.text, add_special_tokens=False)
            return make_request(request_id, prompt, **fields)
        media = {hashlib.sha256(file).hexdigest(): file for file in self.files}
        refs = [MediaRef(hashlib.sha256(file).hexdigest(), f"picture {i}") for i, file in enumerate(self.files)]
        prompt, read = reader.read([self.text], refs, media)
        return make_request(request_id, prompt, media=read, **fields)

    @torch.inference_mode()
    def generate(self, request: Request, model: Any = None) -> list[int]:
        """What transformers answers, greedily, by the processor's own way from text and pictures to inputs; with the
        family's model unless another is given."""
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in self.files]
        processor = load_processor(make_folder(self.family), trust_remote_code=False)
        inputs = processor(text=[self.text], images=pictures or None, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == request.prompt_token_ids
        output = (model or make_vision_model(self.family)).generate(
            **inputs,
            max_new_tokens=request.max_tokens,
            do_sample=False,
            eos_token_id=list(request.eos_token_ids) or [9999],  # a token that never comes
            pad_token_id=256,
        )
        return output[0, inputs["input_ids"].shape[1] :].tolist()
