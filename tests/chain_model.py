"""A tiny Llama that says what a test tells it to: after each token of a text comes the next one, with certainty.

Its layers add nothing, its embedding tells tokens apart, and its output layer is the table of what follows what.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NUM_TOKENS = 512
END = "<|end_of_answer|>"


def build_chain_model(folder: Path, template: str, texts: Sequence[Sequence[str]], special: Sequence[str] = ()) -> None:
    """Write a model that continues each of `texts`: pieces that become a token each, the first one in the prompt.

    Every piece is followed by the same one wherever it stands; END ends the answer. `special` are special tokens.
    """
    tokenizer = _build_tokenizer([piece for text in texts for piece in text], [END, *special])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    model = build_empty_model(tokenizer.eos_token_id)
    with torch.no_grad():
        for text in texts:
            ids = tokenizer.convert_tokens_to_ids(list(text))
            model.lm_head.weight[ids[1:], ids[:-1]] = 10.0
    model.save_pretrained(folder)


def _build_tokenizer(pieces: Sequence[str], special: Sequence[str]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(piece, special=False) for piece in dict.fromkeys(pieces) if piece not in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def build_empty_model(eos_token_id: int) -> LlamaForCausalLM:
    """Whatever is entered in its output layer at [next, token] is the logit of `next` after `token`."""
    config = LlamaConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=NUM_TOKENS,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        eos_token_id=eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.lm_head.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(NUM_TOKENS))
    return model
