"""Tiny random models that see, made from their configurations with processors of their own: nothing is downloaded.

A model and its folder are made once per process and shared, so a test must not change them. Pictures become a few
tokens each: the processors cut them down to some dozens of pixels.
"""

import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

END_TOKEN = "<|im_end|>"
_SPECIAL = ["<pad>", "<s>", END_TOKEN, "<|im_start|>", "<image>", "<fake_token_around_image>", "<global-img>"]
_SPECIAL += ["<end_of_utterance>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_SPECIAL += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
_SPECIAL += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
VOCAB_SIZE = 256 + len(_SPECIAL)

TEXT: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "pad_token_id": 256,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
_QWEN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
_QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_QWEN_PIXELS = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 128, "longest_edge": 1024},
}
_QWEN_VISION = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 2}

# What differs: configuration, image processor, processor, and how the template writes a picture.
FAMILIES: dict[str, dict[str, Any]] = {
    "llava": {
        "vision": {"model_type": "clip_vision_model", **_VISION, "projection_dim": 16},
        "text": {"model_type": "llama", **TEXT},
        "tokens": {"image_token": "<image>"},
        "config": {"vision_feature_layer": -1},
        "image_processor": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 16}, "crop_size": 16}),
        "processor": (
            "LlavaProcessor",
            {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        ),
        "picture": "<image>",
    },
    "qwen2_vl": {
        "vision": {**_QWEN_VISION, "embed_dim": 16, "hidden_size": 32, "num_heads": 2},
        "text": {**TEXT, "rope_parameters": _QWEN_ROPE},
        "tokens": _QWEN_TOKENS,
        "image_processor": ("Qwen2VLImageProcessorPil", _QWEN_PIXELS),
        "processor": ("Qwen2VLProcessor", {}),
        "picture": "<|vision_start|><|image_pad|><|vision_end|>",
    },
    "qwen2_5_vl": {
        "vision": {
            **_QWEN_VISION,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
            "num_heads": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        "text": {**TEXT, "rope_parameters": _QWEN_ROPE},
        "tokens": _QWEN_TOKENS,
        "image_processor": ("Qwen2VLImageProcessorPil", _QWEN_PIXELS),
        "processor": ("Qwen2_5_VLProcessor", {}),
        "picture": "<|vision_start|><|image_pad|><|vision_end|>",
    },
    "qwen3_vl": {
        "vision": {
            **_QWEN_VISION,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
            "num_heads": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        "text": {**TEXT, "rope_parameters": {**_QWEN_ROPE, "mrope_interleaved": True}},
        "tokens": _QWEN_TOKENS,
        "image_processor": ("Qwen2VLImageProcessorPil", _QWEN_PIXELS),
        "processor": ("Qwen3VLProcessor", {}),
        "picture": "<|vision_start|><|image_pad|><|vision_end|>",
    },
    "gemma3": {
        "vision": {"model_type": "siglip_vision_model", **_VISION},
        "text": {
            **TEXT,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        },
        "tokens": {"image_token": "<image_soft_token>"},
        "config": {"mm_tokens_per_image": 4},
        "image_processor": ("Gemma3ImageProcessorPil", {"size": {"height": 16, "width": 16}}),
        "processor": ("Gemma3Processor", {"image_seq_length": 4}),
        "picture": "<start_of_image>",
    },
    "idefics3": {
        "vision": {**_VISION},
        "text": {"model_type": "llama", **TEXT},
        "tokens": {"image_token": "<image>"},
        "config": {"scale_factor": 2},
        "image_processor": (
            "Idefics3ImageProcessorPil",
            {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}},
        ),
        "processor": ("Idefics3Processor", {"image_seq_len": 4}),
        "picture": "<image>",
    },
    "smolvlm": {
        "vision": {**_VISION},
        "text": {"model_type": "llama", **TEXT},
        "tokens": {"image_token": "<image>"},
        "config": {"scale_factor": 2},
        "image_processor": (
            "SmolVLMImageProcessorPil",
            {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}},
        ),
        "processor": ("SmolVLMProcessor", {"image_seq_len": 4}),
        "picture": "<image>",
    },
}

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type != 'text' %}PICTURE{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def make_folder(family: str) -> Path:
    """A folder with the family's tiny model, tokenizer, chat template and processor, as a hub repository has them."""
    parts = FAMILIES[family]
    tokenizer = _make_tokenizer(parts)
    folder = Path(tempfile.mkdtemp(prefix=f"tiny-{family}-"))
    _make_model(family, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_class, image_options = parts["image_processor"]
    get_image_processor_class_from_name(image_class)(**image_options).save_pretrained(folder)
    class_name, options = parts["processor"]
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": class_name, **options}))
    return folder


@functools.cache
def make_vision_model(family: str) -> PreTrainedModel:
    """The model of the folder, with its ordinary attention."""
    return AutoModelForImageTextToText.from_pretrained(make_folder(family), dtype=torch.float32).eval()


def make_picture(seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    """A PNG of random coloured tiles."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(tiles).resize(size, Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def make_byte_tokenizer(special: list[str], picture: str, **named: str) -> PreTrainedTokenizerFast:
    """One token for each byte, and these control tokens; `picture` is what the template writes for what is no text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token=END_TOKEN,
        extra_special_tokens=named,
        chat_template=TEMPLATE.replace("PICTURE", picture),
    )


def _make_tokenizer(parts: dict[str, Any]) -> PreTrainedTokenizerFast:
    return make_byte_tokenizer(
        _SPECIAL,
        parts["picture"],
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
        image_token=parts["tokens"]["image_token"],
        video_token="<|video_pad|>",
    )


def _make_model(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    parts = FAMILIES[family]
    token_ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in parts["tokens"].items()}
    options = token_ids | parts.get("config", {})
    config = AutoConfig.for_model(
        family, text_config=parts["text"], vision_config=parts["vision"], tie_word_embeddings=False, **options
    )
    return make_random_model(AutoModelForImageTextToText, config)


def make_random_model(auto_class: Any, config: Any) -> PreTrainedModel:
    """Weights drawn wide, so that answers vary and no two logits are nearly equal."""
    torch.manual_seed(0)
    model: PreTrainedModel = auto_class.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model
