"""The body field `generation_config`: a transformers GenerationConfig as a JSON text (as `transformers chat` sends it)
or as an object. Its settings are read as if they were fields of the body; those win where both are given.
"""

from typing import Any

import msgspec

from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.schemas.fields import SamplingFields, describe_validation_error

# GenerationConfig's name -> the body's
MAPPED = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "stop_strings": "stop",
    "eos_token_id": "stop_token_ids",  # beside the model's own end tokens
}
# No influence on which tokens come out: caches, compilation, shapes of generate()'s return value, exact speculation,
# and what only counts in beam search.
IGNORED = frozenset(
    [
        "transformers_version",
        "_from_model_config",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "use_mtp",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "pad_token_id",
        "bos_token_id",
        "decoder_start_token_id",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "low_memory",
        "prefill_chunk_size",
        "remove_invalid_values",
        "renormalize_logits",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "speculation_type",
        "early_stopping",
        "length_penalty",
    ]
)
# Refused, except at the value that does nothing. Whatever is in no table is refused unless null.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "guidance_scale": (1,),
    "min_length": (0,),
    "max_length": (20,),  # generate()'s own default, which max_new_tokens replaces
    "token_healing": (False,),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
}


def read_generation_config(given: str | dict[str, Any]) -> dict[str, Any]:
    """Its sampling, in the names of `gpu_worker.protocol.Sampling`. Raises InvalidRequest, UnsupportedParameter."""
    config = _decode(given) if isinstance(given, str) else given
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if value is None or name in IGNORED or name == "do_sample":
            continue
        if name in MAPPED:
            fields[MAPPED[name]] = value
        elif value not in NEUTRAL.get(name, ()):
            param = f"generation_config.{name}"
            raise UnsupportedParameter(f"'{param}' is not supported here: it would change the answer.", param=param)
    if isinstance(fields.get("stop_token_ids"), int):
        fields["stop_token_ids"] = [fields["stop_token_ids"]]
    if config.get("do_sample") is False:
        fields["temperature"] = 0.0
    try:
        return msgspec.convert(fields, SamplingFields).to_sampling()
    except msgspec.ValidationError as error:
        raise describe_validation_error(error, "generation_config.") from None


def _decode(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise InvalidRequest("'generation_config' must be a JSON object.", param="generation_config") from None
