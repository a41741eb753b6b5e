"""A request of ours as the JSON body that an OpenAI-compatible server reads. Pure; sends nothing.

What a server cannot honour is an UnsupportedParameter that names the client's field. Values that nobody set are left
to the server, which knows its model's own defaults.
"""

import base64
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from apps.core.errors import UnsupportedParameter
from apps.inference.clients.openai_http.dialects import Dialect
from gpu_worker.protocol import Embed, Generate, Sampling, Structure, Submission

_NEUTRAL = Sampling(seed=0)
_SAME_NAME = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "seed",
    "top_k",
)
_LISTS = ("stop", "stop_token_ids")
# Servers of OpenAI's own want the later name; all others know the earlier one, and some of them no other.
_OPENAI_HOSTS = ("api.openai.com", ".openai.azure.com")
_IMAGE_KINDS = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


class Body(NamedTuple):
    """Where a request goes below the base URL, and what is sent."""

    path: str
    fields: dict[str, Any]


def make_body(message: Submission, *, model: str, dialect: Dialect, base_url: str) -> Body:
    """Raises UnsupportedParameter. Encodes files: for many of them to be called in a thread."""
    if isinstance(message, Embed):
        return _make_embed(message, model, dialect)
    if not isinstance(message, Generate):
        raise UnsupportedParameter("The engine of this model cannot do that.", param="model")
    _check(message, dialect)
    fields: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if dialect.has_running_usage:
        fields["stream_options"]["continuous_usage_stats"] = True
    fields |= _write_sampling(message, dialect, base_url)
    if message.n > 1:
        fields["n"] = message.n
    if message.structure is not None:
        fields |= _write_structure(message.structure, dialect)
    if message.kind == "chat":
        return Body("chat/completions", fields | _write_chat(message, dialect))
    return Body("completions", fields | _write_completion(message))


def _check(message: Generate, dialect: Dialect) -> None:
    refused = {
        "model": message.adapter is not None,
        "n": message.n > 1 and not dialect.has_choices,
        "prompt": isinstance(message.prompt, list) and not dialect.has_tokens_as_prompt,
        "logprobs": message.echo and "top_logprobs" in message.set_fields,  # which of them are the prompt's?
        "suffix": bool(message.suffix) and not dialect.has_suffix,
        "thinking_budget": message.thinking_budget is not None,
        "reasoning_effort": message.reasoning_effort is not None and not dialect.has_reasoning_effort,
        "enable_thinking": message.enable_thinking is not None and not dialect.has_template_fields,
        "chat_template_kwargs": bool(message.chat_template_kwargs) and not dialect.has_template_fields,
        "continue_final_message": message.continue_final_message and not dialect.has_template_fields,
        "parallel_tool_calls": not message.parallel_tool_calls and not dialect.has_parallel_tool_calls,
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise _refuse(name)
    for name in message.set_fields:
        if name not in dialect.sampling and getattr(message.sampling, name) != getattr(_NEUTRAL, name):
            raise _refuse(name)


def _write_sampling(message: Generate, dialect: Dialect, base_url: str) -> dict[str, Any]:
    sampling, fields = message.sampling, dict[str, Any]()
    for name in message.set_fields:
        value = getattr(sampling, name)
        if name not in dialect.sampling or value is None:
            continue
        if name == "max_tokens":
            fields["max_completion_tokens" if _is_openai(base_url) else "max_tokens"] = value
        elif name == "logit_bias":
            fields["logit_bias"] = {str(token_id): bias for token_id, bias in value.items()}
        elif name == "top_logprobs":
            fields |= {"logprobs": value} if message.kind == "completion" else {"logprobs": True, "top_logprobs": value}
        elif name in _LISTS:
            fields[name] = list(value)
        elif name in _SAME_NAME:
            fields[name] = (value or dialect.no_top_k) if name == "top_k" else value
    return fields


def _write_chat(message: Generate, dialect: Dialect) -> dict[str, Any]:
    media = message.media or {}
    fields: dict[str, Any] = {"messages": [_write_message(turn, media, dialect) for turn in message.messages or []]}
    if message.tools:
        fields["tools"] = message.tools
        if message.tool_choice is not None:
            fields["tool_choice"] = message.tool_choice
        if not message.parallel_tool_calls:
            fields["parallel_tool_calls"] = False
    if message.reasoning_effort is not None:
        fields["reasoning_effort"] = message.reasoning_effort
    if dialect.has_template_fields:
        kwargs = dict(message.chat_template_kwargs or {})
        wish = {"on": True, "off": False}.get(message.reasoning)
        thinking = message.enable_thinking if message.enable_thinking is not None else wish
        if thinking is not None and message.reasoning_effort is None:
            kwargs.setdefault("enable_thinking", thinking)
        if kwargs:
            fields["chat_template_kwargs"] = kwargs
        if message.continue_final_message:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return fields


def _write_completion(message: Generate) -> dict[str, Any]:
    fields: dict[str, Any] = {"prompt": message.prompt}
    if message.echo:
        fields["echo"] = True
    if message.suffix:
        fields["suffix"] = message.suffix
    return fields


def _write_message(turn: dict[str, Any], media: dict[str, bytes], dialect: Dialect) -> dict[str, Any]:
    if not isinstance(turn.get("content"), list):
        return turn
    return {**turn, "content": [_write_part(part, media, dialect) for part in turn["content"]]}


def _write_part(part: dict[str, Any], media: dict[str, bytes], dialect: Dialect) -> dict[str, Any]:
    if part.get("type") not in ("image", "audio"):
        return part
    data = media[part["media"]]
    text = base64.b64encode(data).decode()
    if part["type"] == "image":
        form = next((form for start, form in _IMAGE_KINDS if data.startswith(start)), "png")
        return {"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{text}"}}
    kind = _find_audio_kind(data)
    if dialect.has_audio_url:
        return {"type": "audio_url", "audio_url": {"url": f"data:audio/{kind or 'wav'};base64,{text}"}}
    if kind is None:
        raise UnsupportedParameter("The engine of this model takes recordings as wav and mp3 only.", param="messages")
    return {"type": "input_audio", "input_audio": {"data": text, "format": kind}}


def _find_audio_kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    is_mp3 = data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0)
    return "mp3" if is_mp3 else None


def _write_structure(structure: Structure, dialect: Dialect) -> dict[str, Any]:
    if structure.kind not in dialect.structures:
        raise _refuse(structure.param)
    match structure.kind:
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {"name": "answer", "schema": msgspec.Raw(structure.value.encode()), "strict": True}
            if dialect.has_choices:
                return {"response_format": {"type": "json_schema", "json_schema": schema}}
            return {"response_format": {"type": "json_schema", "value": schema}}  # TGI's
        case "choice":
            return {"structured_outputs": {"choice": msgspec.json.decode(structure.value)}}
        case kind if dialect.has_structured_outputs:
            return {"structured_outputs": {kind: structure.value}}
        case "grammar":
            return {"ebnf": structure.value}  # SGLang's
        case _ if dialect.has_template_fields:
            return {"regex": structure.value}  # SGLang's
    return {"response_format": {"type": "regex", "value": structure.value}}  # TGI's


def _make_embed(message: Embed, model: str, dialect: Dialect) -> Body:
    if not dialect.has_embeddings:
        raise _refuse("model")
    refused = {
        "normalize": message.normalize is not None,
        "prompt_name": message.prompt_name is not None,
        "input_type": message.input_kind is not None,
        "truncate_prompt_tokens": message.max_tokens is not None,
        "input": len({isinstance(item, str) for item in message.inputs}) > 1,  # texts and tokens in one list
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise _refuse(name)
    fields: dict[str, Any] = {"model": model, "input": message.inputs, "encoding_format": "float"}
    if message.dimensions is not None:
        fields["dimensions"] = message.dimensions
    return Body("embeddings", fields)


def _refuse(name: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"'{name}': the engine of this model cannot honour it.", param=name)


def _is_openai(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host == _OPENAI_HOSTS[0] or host.endswith(_OPENAI_HOSTS[1])
