"""What each server understands beyond OpenAI's own API, and what it does not: tables, from their documentation.

A field that a server would leave out without a word is refused here, by name.
"""

from dataclasses import dataclass

from apps.registry.models import UpstreamDialect

# Fields of `Sampling` by OpenAI's names; the others are extensions.
_PLAIN = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens", "stop", "seed", "top_logprobs"}
)
_EXTENDED = frozenset({"top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of server is asked."""

    sampling: frozenset[str] = _PLAIN | {"logit_bias"}  # fields of `Sampling` that it honours
    structures: frozenset[str] = frozenset({"json_object", "json_schema"})
    has_template_fields: bool = False  # chat_template_kwargs, continue_final_message
    has_reasoning_effort: bool = True
    has_parallel_tool_calls: bool = True
    has_choices: bool = True  # n
    has_suffix: bool = True
    has_tokens_as_prompt: bool = True
    has_embeddings: bool = True
    has_audio_url: bool = False  # recordings of any kind, by data: URL; else OpenAI's input_audio, wav and mp3
    has_running_usage: bool = False  # stream_options.continuous_usage_stats
    has_structured_outputs: bool = False  # vLLM's object for regex, choice and grammar
    no_top_k: int = 0  # how "no limit" is written


DIALECTS: dict[str, Dialect] = {
    # https://platform.openai.com/docs/api-reference/chat/create
    UpstreamDialect.OPENAI: Dialect(),
    # Another Atrium: docs/api.md
    UpstreamDialect.ATRIUM: Dialect(
        sampling=_PLAIN | _EXTENDED | {"logit_bias"},
        structures=frozenset({"json_object", "json_schema", "regex", "choice", "grammar"}),
        has_template_fields=True,
        has_audio_url=True,
        has_structured_outputs=True,
    ),
    # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
    UpstreamDialect.VLLM: Dialect(
        sampling=_PLAIN | _EXTENDED | {"logit_bias"},
        structures=frozenset({"json_object", "json_schema", "regex", "choice", "grammar"}),
        has_template_fields=True,
        has_suffix=False,
        has_audio_url=True,
        has_running_usage=True,
        has_structured_outputs=True,
    ),
    # https://docs.sglang.ai/basic_usage/openai_api_completions.html
    UpstreamDialect.SGLANG: Dialect(
        sampling=_PLAIN | _EXTENDED | {"logit_bias"},
        structures=frozenset({"json_object", "json_schema", "regex", "grammar"}),
        has_template_fields=True,
        has_parallel_tool_calls=False,
        has_suffix=False,
        has_audio_url=True,
        no_top_k=-1,
    ),
    # https://huggingface.co/docs/text-generation-inference/reference/api_reference
    UpstreamDialect.TGI: Dialect(
        sampling=_PLAIN,
        structures=frozenset({"json_schema", "regex"}),
        has_reasoning_effort=False,
        has_parallel_tool_calls=False,
        has_choices=False,
        has_suffix=False,
        has_tokens_as_prompt=False,
        has_embeddings=False,
    ),
}
