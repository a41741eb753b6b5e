"""A value for every request field, which shows what is done with it, and what has to stand beside it.

Of endpoints that compute something; `stored_probes.py` has those that keep something.
"""

from typing import Any, NamedTuple

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
FLAT_TOOLS = [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}]
CONVERSATION = "the id of a conversation"
PREVIOUS = "the id of a response that is kept"
MISSING = "missing"  # a model that there is not, where no answer says which one answered


class Probe(NamedTuple):
    """`value` asks for something else than what happens anyway; `beside` makes the field mean something."""

    value: Any
    beside: dict[str, Any] = {}


_SAMPLING = {
    "frequency_penalty": Probe(0.5),
    "logit_bias": Probe({"5": 1}),
    "max_tokens": Probe(5),
    "model": Probe("other"),
    "n": Probe(2),
    "presence_penalty": Probe(0.5),
    "seed": Probe(4),
    "stop": Probe("x"),
    "stream": Probe(True),
    "stream_options": Probe({"include_usage": True}, {"stream": True}),
    "temperature": Probe(0.5),
    "top_p": Probe(0.5),
    "user": Probe("somebody"),
}
_BOTH_CHATS = {
    "metadata": Probe({"a": "b"}),
    "moderation": Probe({"model": "omni-moderation-latest"}),
    "prompt_cache_key": Probe("key"),
    "prompt_cache_options": Probe({"mode": "implicit"}),
    "prompt_cache_retention": Probe("24h"),
    "safety_identifier": Probe("somebody"),
    "service_tier": Probe("flex"),
}
PROBES: dict[str, dict[str, Probe]] = {
    "/v1/chat/completions": _SAMPLING
    | _BOTH_CHATS
    | {
        "audio": Probe({"voice": "alloy", "format": "mp3"}),
        "function_call": Probe({"name": "f"}),
        "functions": Probe([{"name": "f"}]),
        "logprobs": Probe(True),
        "max_completion_tokens": Probe(5),
        "messages": Probe([{"role": "user", "content": "other"}]),
        "modalities": Probe(["text", "audio"]),
        "parallel_tool_calls": Probe(False, {"tools": TOOLS}),
        "prediction": Probe({"type": "content", "content": "Hello"}),
        "reasoning_effort": Probe("low"),
        "response_format": Probe({"type": "json_object"}),
        "store": Probe(True),
        "tool_choice": Probe("required", {"tools": TOOLS}),
        "tools": Probe(TOOLS),
        "top_logprobs": Probe(3, {"logprobs": True}),
        "verbosity": Probe("low"),
        "web_search_options": Probe({}),
    },
    "/v1/completions": _SAMPLING
    | {
        "best_of": Probe(2),
        "echo": Probe(True),
        "logprobs": Probe(2),
        "prompt": Probe("other"),
        "suffix": Probe("end"),
    },
    "/v1/responses": _SAMPLING
    | _BOTH_CHATS
    | {
        "access_programs": Probe({"cyber": "standard"}),
        "background": Probe(True),
        "context_management": Probe([{"type": "compaction"}]),
        "conversation": Probe(CONVERSATION),
        "image": Probe({"context_compression": "enabled"}),
        "include": Probe(["message.output_text.logprobs"]),
        "input": Probe("other"),
        "instructions": Probe("Be short."),
        "max_output_tokens": Probe(5),
        "max_tool_calls": Probe(3),
        "parallel_tool_calls": Probe(False, {"tools": FLAT_TOOLS}),
        "previous_response_id": Probe(PREVIOUS),
        "prompt": Probe({"id": "pmpt_1"}),
        "reasoning": Probe({"effort": "low"}),
        "store": Probe(False),
        "stream_options": Probe({"include_obfuscation": True}, {"stream": True}),
        "text": Probe({"format": {"type": "json_object"}}),
        "tool_choice": Probe("required", {"tools": FLAT_TOOLS}),
        "tools": Probe(FLAT_TOOLS),
        "top_logprobs": Probe(3),
        "truncation": Probe("auto"),
    },
    "/v1/embeddings": {
        "dimensions": Probe(8),
        "encoding_format": Probe("base64"),
        "input": Probe("w2"),
        "model": Probe("other"),
        "user": Probe("somebody"),
    },
    "/v1/audio/translations": {
        "file": Probe(b""),
        "model": Probe("other"),
        "prompt": Probe("w1 w2"),
        "response_format": Probe("text"),
        "temperature": Probe("0.9"),
    },
}
PROBES["/v1/audio/transcriptions"] = PROBES["/v1/audio/translations"] | {
    "chunking_strategy": Probe("auto"),
    "include": Probe("logprobs"),
    "keywords": Probe("Atrium"),
    "known_speaker_names": Probe("agent"),
    "known_speaker_references": Probe("data:audio/wav;base64,AA=="),
    "language": Probe("de", {"response_format": "verbose_json"}),
    "languages": Probe("de"),
    "stream": Probe("true"),
    "timestamp_granularities": Probe("word", {"response_format": "verbose_json"}),
}

_SCHEMA = {"type": "object", "properties": {}}
_MESSAGES_TOOLS = [{"name": "f", "input_schema": _SCHEMA}]
_COUNTED = {
    "billing_policy": Probe({"type": "standard"}),
    "cache_control": Probe({"type": "ephemeral"}),
    "compaction": Probe({"type": "auto"}),
    "context_management": Probe({"edits": [{"type": "clear_tool_uses_20250919"}]}),
    "mcp_servers": Probe([{"type": "url", "url": "http://example.com", "name": "a"}]),
    "messages": Probe([{"role": "user", "content": "other"}]),
    "model": Probe("other"),
    "output_config": Probe({"effort": "low"}),
    "speed": Probe("fast"),
    "system": Probe("Be short."),
    "thinking": Probe({"type": "enabled", "budget_tokens": 2048}),
    "tool_choice": Probe({"type": "any"}, {"tools": _MESSAGES_TOOLS}),
    "tools": Probe(_MESSAGES_TOOLS),
}
PROBES["/v1/messages/count_tokens"] = _COUNTED | {"model": Probe(MISSING)}
PROBES["/v1/messages"] = _COUNTED | {
    "container": Probe("container_1"),
    "diagnostics": Probe({"cache": True}),
    "fallback_credit_token": Probe("token"),
    "fallbacks": Probe([{"model": "other"}]),
    "inference_geo": Probe("eu"),
    "max_tokens": Probe(5),
    "metadata": Probe({"user_id": "somebody"}),
    "service_tier": Probe("auto"),
    "stop_sequences": Probe(["x"]),
    "stream": Probe(True),
    "temperature": Probe(0.5),
    "thread": Probe("thread_1"),
    "top_k": Probe(3),
    "top_p": Probe(0.5),
}
_RANKED = {
    "add_special_tokens": Probe(False),
    "max_chunks_per_doc": Probe(3),
    "max_tokens_per_doc": Probe(3),
    "mm_processor_kwargs": Probe({"a": 1}),
    "model": Probe("other"),
    "rank_fields": Probe(["title"]),
    "return_embeddings": Probe(True),
    "truncate_prompt_tokens": Probe(5),
}
PROBES["/v1/rerank"] = _RANKED | {
    "documents": Probe(["w7", "w8", "w9"]),
    "query": Probe("w9"),
    "return_documents": Probe(True),
    "top_n": Probe(1),
}
PROBES["/v1/score"] = _RANKED | {"text_1": Probe("w9"), "text_2": Probe(["w7", "w8"])}
PROBES["/v1/tokenize"] = {
    "add_generation_prompt": Probe(False),
    "add_special_tokens": Probe(False, {"messages": None, "prompt": "a"}),
    "chat_template": Probe("{{ messages }}"),
    "chat_template_kwargs": Probe({"a": 1}),
    "continue_final_message": Probe(True, {"add_generation_prompt": False}),
    "enable_thinking": Probe(False),
    "media_io_kwargs": Probe({"a": 1}),
    "messages": Probe([{"role": "user", "content": "other"}]),
    "mm_processor_kwargs": Probe({"a": 1}),
    "model": Probe(MISSING),
    "prompt": Probe("other", {"messages": None, "prompt": "a"}),
    "reasoning_effort": Probe("low"),
    "return_token_strs": Probe(True),
    "tool_choice": Probe("none", {"tools": TOOLS}),
    "tools": Probe(TOOLS),
}
PROBES["/v1/detokenize"] = {"model": Probe(MISSING), "tokens": Probe([3])}
PROBES["/load_model"] = {"model": Probe("other")}
