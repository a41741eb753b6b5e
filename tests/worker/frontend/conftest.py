"""Real tokenizers of every kind, trained in a moment, and what tests cut texts with."""

from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gpu_worker.frontend.tokenizer import TextTokenizer

CORPUS = [
    "Hello, world! How are you today? I'm fine, thanks.",
    "The quick brown fox jumps over the lazy dog; it doesn't care.",
    "안녕하세요 세계 좋은 아침입니다",
    "Grüße aus München, naïve café — “quoted” …",
    'def main():\n    return {"a": [1, 2, 3]}\n\n\n',
    "emoji 😀 👩‍👩‍👧 and 你好世界",
] * 20
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>"]


def _finish(tokenizer: Tokenizer) -> TextTokenizer:
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("<think>", special=False)])
    return TextTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    )


def build_byte_level() -> TextTokenizer:
    """GPT-2, Qwen, Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=SPECIAL)
    )
    return _finish(tokenizer)


def build_unigram() -> TextTokenizer:
    """SentencePiece unigram: T5, XLNet, Gemma's ancestors."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>")
    )
    return _finish(tokenizer)


def build_llama() -> TextTokenizer:
    """SentencePiece BPE with byte fallback and a stripped first space: Llama 2, Mistral."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    ascii_corpus = [line for line in CORPUS if line.isascii()]
    tokenizer.train_from_iterator(ascii_corpus, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL))
    # the trainer knows no byte tokens: add them to the model's vocabulary as real checkpoints have them
    import json

    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    vocab.update({token: len(vocab) + i for i, token in enumerate(byte_tokens)})
    return _finish(Tokenizer.from_str(json.dumps(state)))


def build_wordpiece() -> TextTokenizer:
    """BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL))
    return _finish(tokenizer)


BUILDERS: dict[str, Callable[[], TextTokenizer]] = {
    "byte_level": build_byte_level,
    "unigram": build_unigram,
    "llama": build_llama,
    "wordpiece": build_wordpiece,
}


@pytest.fixture(scope="session")
def all_tokenizers() -> dict[str, TextTokenizer]:
    """One of each kind."""
    return {name: build() for name, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def byte_level(all_tokenizers: dict[str, TextTokenizer]) -> TextTokenizer:
    return all_tokenizers["byte_level"]


def cut(text: str, sizes: list[int]) -> list[str]:
    """`text` in pieces of these sizes, the rest in one."""
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]
