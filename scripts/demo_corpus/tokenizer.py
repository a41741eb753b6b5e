"""The model's tokenizer, a byte-level BPE trained on the corpus, with its chat template; knows no model."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo_corpus.conversation import Conversation

END_OF_TURN = "<|im_end|>"
PADDING = "<|endoftext|>"
_SPECIAL_TOKENS = [PADDING, "<|im_start|>", END_OF_TURN]
# One token each, and kept in decoded text: who parses tool calls reads them there.
_TAGS = ["<tool_call>", "</tool_call>", "<tools>", "</tools>", "<tool_response>", "</tool_response>"]

_PIECES = (
    r"'(?:s|t|re|ve|m|ll|d)\b|{before_lower}\p{{Ll}}+|{before_upper}\p{{Lu}}\p{{Ll}}+|"
    r"\p{{L}}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+|\s"
)
CONTEXT_TOKENS = 32_768
_BLANK = "Ġ"  # how byte-level vocabularies write it
_PREFIXES = (_BLANK, "_")
_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def train_tokenizer(texts: Iterable[str], num_merged_tokens: int) -> PreTrainedTokenizerFast:
    """Learn the merges from the texts. Every byte has a token, so any text survives encode and decode.

    Words are learnt without what stands before them. Then each token that may begin a word gets a twin with the blank,
    and if it is in lower case one with the underscore, merged last of all. So a word is cut the same way after a blank,
    a quote or a bracket, and to copy it into JSON is plain copying, but for one token that changes to its twin; and in
    `get_current_weather` each token tells which comes next, which a lone underscore would not. `twins` lists them.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _split(before_lower="", before_upper="")
    trainer = trainers.BpeTrainer(
        vocab_size=num_merged_tokens,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    learnt = json.loads(trained.to_str())["model"]
    vocab: dict[str, int] = learnt["vocab"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    beginnings = [t for t in vocab if t.isascii() and t.isalpha()]
    for prefix in _PREFIXES:
        for token in beginnings:
            if prefix == _BLANK or token.islower():
                vocab[prefix + token] = len(vocab)
                merges.append((prefix, token))
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = _split(before_lower="[ _]?", before_upper=" ?")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL_TOKENS)
    tokenizer.add_tokens(_TAGS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template=_TEMPLATE.read_text(encoding="utf-8"),
    )


def twins(tokenizer: PreTrainedTokenizerFast) -> list[list[tuple[int, int]]]:
    """For each prefix, pairs of token ids: a word's beginning, and the same with the prefix before it."""
    vocab = tokenizer.get_vocab()
    return [
        [(vocab[t[1:]], i) for t, i in vocab.items() if t[0] == prefix and t[1:] in vocab and t[1:].isalpha()]
        for prefix in _PREFIXES
    ]


def _split(before_lower: str, before_upper: str) -> pre_tokenizers.PreTokenizer:
    pieces = _PIECES.format(before_lower=before_lower, before_upper=before_upper)
    split = pre_tokenizers.Split(Regex(pieces), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def render(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> str:
    """The conversation as the model sees it."""
    return tokenizer.apply_chat_template(conversation.messages, tools=conversation.tools, tokenize=False)
