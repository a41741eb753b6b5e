"""Conversations as padded training batches of token ids; knows no model.

Shapes: B conversations in a batch, L tokens of its longest.
"""

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from demo_corpus.conversation import Conversation
from demo_corpus.tokenizer import END_OF_TURN, render

MAX_TOKENS = 1024
_POOL = 768  # conversations sorted by length together, so that a batch pads little
_ANSWER_STARTS = "<|im_start|>assistant\n"


class Batch(NamedTuple):
    """`labels_BL` is the next token where it belongs to an assistant's turn, its end included, and -100 elsewhere."""

    input_ids_BL: torch.Tensor
    labels_BL: torch.Tensor


def answer_mask(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[bool]:
    """Which tokens the model itself would have produced: the assistant's turns up to and with their end mark."""
    start = tokenizer.encode(_ANSWER_STARTS)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    mask, inside = [False] * len(ids), False
    for i, token in enumerate(ids):
        mask[i] = inside
        if inside and token == end:
            inside = False
        elif ids[i + 1 - len(start) : i + 1] == start:
            inside = True
    return mask


def batches(
    tokenizer: PreTrainedTokenizerFast, source: Iterator[Conversation], num_tokens: int, seed: int
) -> Iterator[Batch]:
    """The conversations in batches of about `num_tokens` tokens with padding; the seed shuffles them."""
    shuffler = random.Random(seed)
    while True:
        texts = [render(tokenizer, conversation) for conversation in itertools.islice(source, _POOL)]
        rows = [ids for ids in tokenizer(texts)["input_ids"] if len(ids) <= MAX_TOKENS]
        rows.sort(key=len)
        groups: list[list[list[int]]] = [[]]
        for ids in rows:
            if (len(groups[-1]) + 1) * len(ids) > num_tokens:
                groups.append([])
            groups[-1].append(ids)
        shuffler.shuffle(groups)
        yield from (_pad(tokenizer, group) for group in groups)


def _pad(tokenizer: PreTrainedTokenizerFast, rows: list[list[int]]) -> Batch:
    length = max(map(len, rows))
    input_ids_BL = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels_BL = torch.full((len(rows), length), -100)
    for row, ids in enumerate(rows):
        input_ids_BL[row, : len(ids)] = torch.tensor(ids)
        for i, wanted in enumerate(answer_mask(tokenizer, ids)):
            if wanted:
                labels_BL[row, i - 1] = ids[i]
    return Batch(input_ids_BL, labels_BL)
