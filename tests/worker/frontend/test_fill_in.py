"""Fill-in-the-middle prompts: each family's own order, its end tokens, and what has no such tokens is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from transformers import CodeLlamaTokenizer, PreTrainedTokenizerFast

from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.prepare import Frontend, Limits
from gpu_worker.protocol import Generate, Sampling
from tests.worker.frontend.conftest import build_byte_level, build_llama

BEFORE, AFTER = "def main():\n    return ", "  [1, 2]\n"
# family -> tokenizer, its control tokens, the prompt as its papers and examples write it
FAMILIES: dict[str, tuple[Callable[[], Any], tuple[str, ...], str]] = {
    "qwen2.5-coder": (
        build_byte_level,
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|endoftext|>"),
        "<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>",
    ),
    "starcoder2": (
        build_byte_level,
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"),
        "<fim_prefix>{before}<fim_suffix>{after}<fim_middle>",
    ),
    "deepseek-coder": (
        build_byte_level,
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001
        "<｜fim▁begin｜>{before}<｜fim▁hole｜>{after}<｜fim▁end｜>",  # noqa: RUF001
    ),
    "codellama": (
        build_llama,
        ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
        "▁<PRE>{before}▁<SUF>{after}▁<MID>",
    ),
    "codestral": (build_llama, ("[PREFIX]", "[SUFFIX]"), "[SUFFIX]{after}[PREFIX]{before}"),
}
VOCAB_SIZE, EOS = 1000, 2


def build(name: str, *, adds_bos: bool = False) -> Frontend:
    make, tokens, _ = FAMILIES[name]
    tokenizer = make().hf
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    if adds_bos:
        bos = ("<s>", tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[bos])
    return Frontend(tokenizer, Limits(max_model_len=512, vocab_size=VOCAB_SIZE, eos_token_ids=frozenset([EOS])))


def prepare(frontend: Frontend, **fields: Any) -> Any:
    fields = {"prompt": BEFORE, "suffix": AFTER, "sampling": Sampling(seed=1)} | fields
    return frontend.prepare(Generate(id="r", kind="completion", **fields))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("adds_bos", [False, True], ids=["plain", "bos"])
def test_prompt_has_the_familys_order(name: str, adds_bos: bool) -> None:
    frontend = build(name, adds_bos=adds_bos)
    pieces = [frontend.tokenizer.token_bytes(i) for i in prepare(frontend).prompt_token_ids]
    spaced = name in ("codellama", "codestral")  # SentencePiece gives the prefix a space, and the suffix none
    expected = FAMILIES[name][2].format(before=" " * spaced + BEFORE, after=AFTER)
    assert b"".join(pieces).decode() == "<s>" * adds_bos + expected


@pytest.mark.parametrize("name", FAMILIES)
def test_prefix_may_be_token_ids_or_empty(name: str) -> None:
    frontend = build(name)
    token_ids = frontend.tokenizer.encode(BEFORE, add_special_tokens=False)
    assert prepare(frontend, prompt=token_ids).prompt_token_ids == prepare(frontend).prompt_token_ids
    assert len(prepare(frontend, prompt="").prompt_token_ids) == len(prepare(frontend).prompt_token_ids) - len(
        token_ids
    )
    assert prepare(frontend, prompt=token_ids, echo=True).echo_text == frontend.tokenizer.decode(token_ids)
    assert prepare(frontend, echo=True).echo_text == BEFORE


def test_the_familys_own_end_tokens_end_it_too() -> None:
    frontend = build("codellama")
    eot = frontend.tokenizer.find_token("▁<EOT>")
    assert prepare(frontend).eos_token_ids == {EOS, eot}
    assert prepare(frontend, suffix="").eos_token_ids == {EOS}
    assert prepare(frontend, sampling=Sampling(seed=1, ignore_eos=True)).eos_token_ids == frozenset()
    stream = prepare(frontend).choices[0].stream
    assert (stream.advance(eot).finish, stream.flush().text) == ("stop", "")


@pytest.mark.parametrize(
    "frontend",
    [
        lambda: Frontend(build_byte_level().hf, Limits(512, VOCAB_SIZE)),
        lambda: Frontend(
            build("starcoder2").tokenizer.hf, Limits(512, build("starcoder2").tokenizer.find_token("<fim_middle>"))
        ),
    ],
    ids=["no_tokens", "no_embedding"],
)
def test_other_models_refuse_a_suffix(frontend: Callable[[], Frontend]) -> None:
    with pytest.raises(RequestRejected) as caught:
        prepare(frontend())
    assert (caught.value.code, caught.value.param) == ("unsupported", "suffix")


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": "\ud800"}, "prompt"), ({"suffix": "\ud800"}, "suffix"), ({"prompt": [5000]}, "prompt")],
)
def test_bad_texts_and_ids_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        prepare(build("qwen2.5-coder"), **fields)
    assert caught.value.param == param


def test_codellama_prompt_is_that_of_its_own_tokenizer() -> None:
    """Which writes the prefix with its space and the suffix without, as Meta's code does."""
    state = json.loads(build_llama().hf.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    own = CodeLlamaTokenizer(vocab=state["vocab"], merges=merges, add_bos_token=True)
    expected = own(BEFORE, suffix=AFTER)["input_ids"]
    fast = PreTrainedTokenizerFast(tokenizer_object=own.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    frontend = Frontend(fast, Limits(max_model_len=512, vocab_size=len(own)))
    assert prepare(frontend).prompt_token_ids == expected
