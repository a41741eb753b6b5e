"""A tiny random Qwen2 in a GGUF file, as llama.cpp's converter would write it: weights, tokenizer, chat template."""

import functools
from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

NUM_LAYERS = 2
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}!"
_CHARACTERS = [chr(code) for code in range(33, 126)]
TOKENS = [*_CHARACTERS, "Ġ", "ab", "<|endoftext|>", "<|im_end|>"]
END_OF_TEXT, END_OF_TURN = TOKENS.index("<|endoftext|>"), TOKENS.index("<|im_end|>")
_CONTROL = {END_OF_TEXT, END_OF_TURN}


@functools.cache
def make_gguf_model() -> PreTrainedModel:
    """The model that the files hold. Its sizes are whole blocks of GGUF's 8-bit type."""
    config = Qwen2Config(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        initializer_range=0.3,
        eos_token_id=END_OF_TEXT,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval()


def save_gguf(
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    architecture: str = "qwen2",
    left_out: str = "",
) -> Path:
    """Write the model; matrices in the given type, all but those whose name holds `left_out`."""
    writer = gguf.GGUFWriter(path, architecture)
    _add_configuration(writer)
    _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, NUM_LAYERS)
    for name, tensor in make_gguf_model().state_dict().items():
        stem, _, ending = name.rpartition(".")
        if left_out and left_out in name:
            continue
        dtype = kind if tensor.dim() == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quantize(tensor.numpy(), dtype)
        writer.add_tensor(f"{names.get_name(stem)}.{ending}", data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_configuration(writer: gguf.GGUFWriter) -> None:
    config = make_gguf_model().config
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if index in _CONTROL else 1 for index in range(len(TOKENS))])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(END_OF_TEXT)
    writer.add_eot_token_id(END_OF_TURN)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
