"""A tiny random Whisper in a folder: the real model, tokenizer and feature extractor classes, made from configurations.

Its vocabulary is laid out as Whisper's: text, end of text, control tokens, then one token for each 20 ms of a window.
"""

import functools
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

MEL_BINS = 20
MAX_TARGET_POSITIONS = 48
LANGUAGES = ("en", "de", "ko")
_CONTROL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)


def save_tiny_whisper(folder: Path, *, multilingual: bool = True, alignment_heads: bool = True, seed: int = 0) -> Path:
    """Writes everything a repository of such a model has."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=MEL_BINS).save_pretrained(folder)
    model = make_model(tokenizer, seed)
    with torch.no_grad():  # else one of so many time stamps would win where none is asked for
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1 :] *= 0.3
    model.generation_config = make_generation_config(
        tokenizer, multilingual=multilingual, alignment_heads=alignment_heads
    )
    model.save_pretrained(folder)
    return folder


@functools.cache
def make_tokenizer() -> WhisperTokenizer:
    """Bytes, and one merge that makes words of pairs of letters after a space."""
    letters = sorted(ByteLevel.alphabet())
    words = ["Ġ" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocab = {token: index for index, token in enumerate([*letters, *words])}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[("Ġ", word[1]) for word in words])
    tokenizer.add_special_tokens({"additional_special_tokens": list(_CONTROL[1:])})
    tokenizer.add_tokens([f"<|{index * 0.02:.2f}|>" for index in range(1501)])
    return tokenizer


def make_model(tokenizer: WhisperTokenizer, seed: int) -> WhisperForConditionalGeneration:
    """Weights drawn wide, so that no two logits are nearly equal."""
    eos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=MEL_BINS,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=1500,
        max_target_positions=MAX_TARGET_POSITIONS,
        init_std=0.5,
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=eos,
        decoder_start_token_id=eos + 1,
        median_filter_width=7,
    )
    torch.manual_seed(seed)
    return WhisperForConditionalGeneration(config).eval()


def make_generation_config(
    tokenizer: WhisperTokenizer, *, multilingual: bool, alignment_heads: bool
) -> GenerationConfig:
    """As the repositories of real ones have it."""
    find = tokenizer.convert_tokens_to_ids
    config = GenerationConfig(
        eos_token_id=find("<|endoftext|>"),
        bos_token_id=find("<|endoftext|>"),
        pad_token_id=find("<|endoftext|>"),
        decoder_start_token_id=find("<|startoftranscript|>"),
        max_length=MAX_TARGET_POSITIONS,
        begin_suppress_tokens=[find("Ġ"), find("<|endoftext|>")],
        suppress_tokens=[find(token) for token in _CONTROL[1:-1]],
    )
    config.no_timestamps_token_id = find("<|notimestamps|>")
    config.prev_sot_token_id = find("<|startofprev|>")
    config.max_initial_timestamp_index = 50
    config.is_multilingual = multilingual
    config.return_timestamps = False
    if multilingual:
        config.lang_to_id = {f"<|{code}|>": find(f"<|{code}|>") for code in LANGUAGES}
        config.task_to_id = {"transcribe": find("<|transcribe|>"), "translate": find("<|translate|>")}
    if alignment_heads:
        config.alignment_heads = [[0, 1], [1, 0]]
    return config
