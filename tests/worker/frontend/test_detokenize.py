"""Pieces joined are the decoded whole, for every kind of tokenizer, and no piece splits a character."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_worker.frontend.detokenize import build_detokenizer
from gpu_worker.frontend.tokenizer import TextTokenizer

KINDS = ["byte_level", "unigram", "llama", "wordpiece"]
TEXTS = ["Hello, world!", "  two  spaces", "안녕 세계", "naïve café", "👩‍👩‍👧!", "a\n\nb", "don't stop .", "\ufffd x"]


def decode_whole(tokenizer: TextTokenizer, token_ids: list[int]) -> str:
    return tokenizer.hf.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def push_all(tokenizer: TextTokenizer, token_ids: list[int]) -> list[str]:
    detokenizer = build_detokenizer(tokenizer)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_text_join_to_its_decoding(all_tokenizers: dict[str, TextTokenizer], kind: str, text: str) -> None:
    tokenizer = all_tokenizers[kind]
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(push_all(tokenizer, token_ids)) == decode_whole(tokenizer, token_ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40), data=st.data())
def test_any_text_with_special_tokens_joins_to_its_decoding(
    all_tokenizers: dict[str, TextTokenizer], kind: str, text: str, data: st.DataObject
) -> None:
    tokenizer = all_tokenizers[kind]
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    for special_id in data.draw(st.lists(st.sampled_from([1, 2, 3]), max_size=3)):
        # not within a character: there, even the whole decoding depends on what byte fallback makes of it
        token_ids.insert(data.draw(st.sampled_from([0, len(token_ids)])), special_id)
    assert "".join(push_all(tokenizer, token_ids)) == decode_whole(tokenizer, token_ids)


# Random ids make malformed UTF-8 out of byte tokens. Byte-level decoders treat it locally, so it is exact there;
# under byte fallback the whole run of byte tokens turns into U+FFFD, which a stream cannot wait for.
@pytest.mark.parametrize("kind", ["byte_level", "unigram", "wordpiece"])
@settings(max_examples=200, deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), max_size=40))
def test_random_ids_join_to_their_decoding(
    all_tokenizers: dict[str, TextTokenizer], kind: str, seeds: list[int]
) -> None:
    tokenizer = all_tokenizers[kind]
    token_ids = [seed % (len(tokenizer.hf) + 3) for seed in seeds]  # a few ids beyond the vocabulary
    assert "".join(push_all(tokenizer, token_ids)) == decode_whole(tokenizer, token_ids)


@settings(max_examples=100, deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), max_size=60))
def test_malformed_byte_runs_never_stop_the_stream(all_tokenizers: dict[str, TextTokenizer], seeds: list[int]) -> None:
    tokenizer = all_tokenizers["llama"]
    token_ids = [seed % len(tokenizer.hf) for seed in seeds]
    detokenizer = build_detokenizer(tokenizer)
    held = 0
    for token_id in token_ids:
        held = 0 if detokenizer.push(token_id) or tokenizer.is_hidden(token_id) else held + 1
        assert held <= 8


@pytest.mark.parametrize("kind", ["byte_level", "llama"])
def test_no_piece_splits_a_character(all_tokenizers: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = all_tokenizers[kind]
    text = "a👩‍👩‍👧b안녕𝄞c"
    pieces = push_all(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert "".join(pieces).strip() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_special_token_is_shown_when_a_parser_needs_it(byte_level: TextTokenizer) -> None:
    special_id = 3
    assert build_detokenizer(byte_level).push(special_id) == ""
    assert build_detokenizer(byte_level, visible=frozenset([special_id])).push(special_id) == "<|im_end|>"


@pytest.mark.parametrize("kind", KINDS)
def test_cost_per_token_does_not_grow(all_tokenizers: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = all_tokenizers[kind]
    token_ids = tokenizer.encode("Hello, world! How are you? " * 800, add_special_tokens=False)
    detokenizer = build_detokenizer(tokenizer)

    def measure_s(part: list[int]) -> float:
        start = time.process_time()
        for token_id in part:
            detokenizer.push(token_id)
        return time.process_time() - start

    tenth = len(token_ids) // 10
    measure_s(token_ids[:tenth])  # fills caches
    first_s = measure_s(token_ids[tenth : 2 * tenth])
    measure_s(token_ids[2 * tenth : 9 * tenth])
    assert measure_s(token_ids[9 * tenth :]) < 5 * first_s + 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_token_bytes_join_to_the_text(all_tokenizers: dict[str, TextTokenizer], kind: str, text: str) -> None:
    tokenizer = all_tokenizers[kind]
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    if 0 in token_ids:  # <unk>: the text is lost already
        return
    joined = b"".join(tokenizer.token_bytes(token_id) for token_id in token_ids).decode()
    assert joined.lstrip() == decode_whole(tokenizer, token_ids).lstrip()
