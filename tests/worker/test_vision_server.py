"""A real worker with a model that sees: messages with pictures in, the tokens of `model.generate` out."""

import base64
import hashlib
import io
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from gpu_worker.frontend.pictures import MAX_PIXELS
from gpu_worker.processor import load_processor
from gpu_worker.protocol import Failed, Finished, ResumeChoice, Started
from tests.tiny_vision import make_folder, make_picture, make_vision_model
from tests.worker.link import Link, chat, open_link
from tests.worker_process import WorkerProcess, run_worker

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vision")]

FAMILY = "qwen2_vl"
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    with run_worker(make_folder(FAMILY), num_blocks=256, max_num_seqs=8, max_model_len=300, dtype="float32") as process:
        yield process


@pytest.fixture
async def link(worker: WorkerProcess) -> AsyncIterator[Link]:
    async with open_link(worker) as open_:
        yield open_


def to_key(file: bytes) -> str:
    return hashlib.sha256(file).hexdigest()


def show(*parts: str | bytes, **fields: Any) -> dict[str, Any]:
    """One message of texts and pictures, with its files beside it."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "media": to_key(part)}
        for part in parts
    ]
    media = {to_key(part): part for part in parts if isinstance(part, bytes)}
    return {"messages": [{"role": "user", "content": content}], "media": media, "max_tokens": NUM_TOKENS} | fields


@torch.inference_mode()
def generate(*parts: str | bytes) -> tuple[int, list[int]]:
    """How many prompt tokens and which answer transformers has for the same message."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
    pictures = [Image.open(io.BytesIO(part)).convert("RGB") for part in parts if isinstance(part, bytes)]
    tokenizer = AutoTokenizer.from_pretrained(make_folder(FAMILY))
    messages = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    processor = load_processor(make_folder(FAMILY), trust_remote_code=False)
    inputs = processor(text=[text], images=pictures, return_tensors="pt")
    output = make_vision_model(FAMILY).generate(
        **inputs, max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=9999, pad_token_id=256
    )
    num_prompt = inputs["input_ids"].shape[1]
    return num_prompt, output[0, num_prompt:].tolist()


async def test_the_model_is_known_to_see(worker: WorkerProcess) -> None:
    info = worker.get_health()[1]["info"]
    assert (info["supports_images"], info["engine"]) == (True, "paged")


@pytest.mark.parametrize(
    "parts",
    [
        ("What is it?", make_picture(1)),
        (make_picture(2), "And this?"),
        (make_picture(1), "or", make_picture(2, (40, 20)), "or", make_picture(1), "?"),
    ],
    ids=["text first", "picture first", "several"],
)
async def test_answers_equal_generate(link: Link, parts: tuple[str | bytes, ...]) -> None:
    num_prompt, expected = generate(*parts)
    for request_id in ("cold", "cached"):
        answer = await link.ask(chat(request_id, "", ignore_eos=True, **show(*parts)))
        assert answer.token_ids() == expected
        assert answer.of_type(Started)[0].prompt_tokens == num_prompt
        assert isinstance(answer.end, Finished)
        assert answer.end.usage.prompt_tokens == num_prompt
    resumed = await link.ask(
        chat("resumed", "", ignore_eos=True, resume=[ResumeChoice(0, expected[:5])], **show(*parts))
    )
    assert resumed.token_ids() == expected[5:]


async def test_what_a_user_writes_stands_for_no_picture(link: Link) -> None:
    """The tokens that a template writes for a picture are plain characters in a text."""
    picture = make_picture(1)
    typed = "<|vision_start|><|image_pad|><|vision_end|>"
    for parts in ((typed,), (typed, picture), (picture, f"{typed} {typed}")):
        answer = await link.ask(chat("typed", "", **show(*parts)))
        assert isinstance(answer.end, Finished), answer.end
        assert answer.end.usage.prompt_tokens > len(typed)


def make_bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has more pixels than may be unpacked."""
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(99)),
        b"IEND": b"",
    }
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def save(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


FRAMES = [Image.new("RGB", (24, 24), color) for color in ("red", "blue")]
BAD = {
    "nothing": (b"", "not a PNG"),
    "noise": (b"\x89PNG\r\n\x1a\n" + b"noise" * 9, "damaged"),
    "cut": (make_picture(1, (60, 60))[:-40], "damaged"),
    "bomb": (make_bomb(8_000), f"{MAX_PIXELS:,} are allowed"),
    "large bomb": (make_bomb(12_000), f"{MAX_PIXELS:,} are allowed"),
    "huge bomb": (make_bomb(60_000), f"{MAX_PIXELS:,} are allowed"),
    "animated": (save(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "animated"),
    "another kind": (save(FRAMES[0], "BMP"), "not a PNG"),
    "too narrow": (make_picture(1, (900, 2)), "processor"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_pictures_are_refused_by_name(link: Link, name: str) -> None:
    file, message = BAD[name]
    (failed,) = (await link.ask(chat("bad", "", **show("Look:", make_picture(1), file)))).events
    assert isinstance(failed, Failed)
    assert (failed.code, failed.param) == ("invalid_request", "messages[0].content[2].image_url")
    assert message in failed.message


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
async def test_other_kinds_are_read(link: Link, kind: str) -> None:
    answer = await link.ask(chat("kind", "", **show("Look:", save(Image.new("RGB", (24, 24), "red"), kind))))
    assert isinstance(answer.end, Finished)


async def test_other_misuse_is_refused(link: Link) -> None:
    lost = await link.ask(chat("lost", "", **show("Look:", make_picture(1), media={})))
    assert (lost.end.code, lost.end.param) == ("invalid_request", "messages[0].content[1].image_url")
    own = [{"role": "assistant", "content": show(make_picture(1))["messages"][0]["content"]}]
    refused = await link.ask(chat("own", "", **show(make_picture(1), messages=own)))
    assert (refused.end.code, refused.end.param) == ("invalid_request", "messages[0].content")
    long = await link.ask(chat("long", "", **show(*[make_picture(1, (64, 64))] * 60)))
    assert (long.end.code, long.end.param) == ("context_length_exceeded", "messages")


async def test_a_picture_is_counted_as_what_the_model_reads(link: Link) -> None:
    """Four times the pixels, more tokens; and base64 is nothing the worker knows."""
    few, many = [
        (await link.ask(chat("size", "", **show(make_picture(1, size), "?")))).of_type(Started)[0].prompt_tokens
        for size in ((16, 16), (32, 32))
    ]
    assert few < many
    raw = base64.b64encode(make_picture(1))
    (failed,) = (await link.ask(chat("raw", "", **show(raw)))).events
    assert failed.param == "messages[0].content[0].image_url"
