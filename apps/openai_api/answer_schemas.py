"""JSON Schemas of what the generating endpoints answer, for the OpenAPI document and the tests that hold them to it.

They allow no property that they do not name. Chunks and events of streams stand here too. Knows nothing of requests.
"""

from typing import Any, get_args

from gpu_worker.protocol import FinishReason

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_NULL: Schema = {"type": "null"}
_FINISH_REASON: Schema = {"type": "string", "enum": [name for name in get_args(FinishReason) if name != "abort"]}


def make_object(properties: dict[str, Schema], **optional: Schema) -> Schema:
    """An object that has all of `properties`, perhaps some of `optional`, and no others."""
    return {
        "type": "object",
        "properties": {**properties, **optional},
        "required": list(properties),
        "additionalProperties": False,
    }


def make_list(items: Schema) -> Schema:
    """An array of such items."""
    return {"type": "array", "items": items}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, _NULL]}


def _const(value: str) -> Schema:
    return {"type": "string", "enum": [value]}


_BYTES = make_list({"type": "integer", "minimum": 0, "maximum": 255})
_TOP_LOGPROB = make_object({"token": _TEXT, "logprob": _NUMBER, "bytes": _BYTES})
_LOGPROB = make_object({"token": _TEXT, "logprob": _NUMBER, "bytes": _BYTES, "top_logprobs": make_list(_TOP_LOGPROB)})
_LOGPROBS = _maybe(make_object({"content": make_list(_LOGPROB), "refusal": _NULL}))
_OLD_LOGPROBS = _maybe(
    make_object(
        {
            "tokens": make_list(_TEXT),
            "token_logprobs": make_list(_maybe(_NUMBER)),  # null: of a prompt's first token
            "top_logprobs": _maybe(make_list(_maybe({"type": "object", "additionalProperties": _NUMBER}))),
            "text_offset": make_list(_COUNT),
        }
    )
)
USAGE = make_object(
    {
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "total_tokens": _COUNT,
        "prompt_tokens_details": make_object({"cached_tokens": _COUNT}),
        "completion_tokens_details": make_object({"reasoning_tokens": _COUNT}),
    }
)
_POOLING_USAGE = make_object({"prompt_tokens": _COUNT, "total_tokens": _COUNT})
_FUNCTION = make_object({"name": _TEXT, "arguments": _TEXT})
_CUSTOM = make_object({"name": _TEXT, "input": _TEXT})
_CALLED: list[Schema] = [
    {"id": _TEXT, "type": _const("function"), "function": _FUNCTION},
    {"id": _TEXT, "type": _const("custom"), "custom": _CUSTOM},
]
_TOOL_CALL: Schema = {"anyOf": [make_object(called) for called in _CALLED]}
_MESSAGE = make_object(
    {"role": _const("assistant"), "content": _maybe(_TEXT), "refusal": _NULL},
    reasoning_content=_TEXT,
    tool_calls=make_list(_TOOL_CALL),
)
_DELTA = make_object(
    {},
    role=_const("assistant"),
    content=_TEXT,
    reasoning_content=_TEXT,
    tool_calls=make_list(
        {
            "anyOf": [
                *(make_object({"index": _COUNT, **called}) for called in _CALLED),
                make_object({"index": _COUNT, "function": make_object({"arguments": _TEXT})}),
                make_object({"index": _COUNT, "custom": make_object({"input": _TEXT})}),
            ]
        }
    ),
)


def _make_answer(kind: str, choice: Schema, **optional: Schema) -> Schema:
    head = {"id": _TEXT, "object": _const(kind), "created": _COUNT, "model": _TEXT, "system_fingerprint": _TEXT}
    return make_object({**head, "choices": make_list(make_object(choice))}, **optional)


def _require(schema: Schema, name: str) -> Schema:
    return {**schema, "required": [*schema["required"], name]}


CHAT_COMPLETION = _require(
    _make_answer(
        "chat.completion",
        {"index": _COUNT, "message": _MESSAGE, "logprobs": _LOGPROBS, "finish_reason": _FINISH_REASON},
        usage=USAGE,
    ),
    "usage",
)
CHAT_CHUNK = _make_answer(
    "chat.completion.chunk",
    {"index": _COUNT, "delta": _DELTA, "logprobs": _LOGPROBS, "finish_reason": _maybe(_FINISH_REASON)},
    usage=_maybe(USAGE),
)
COMPLETION = _require(
    _make_answer(
        "text_completion",
        {"index": _COUNT, "text": _TEXT, "logprobs": _OLD_LOGPROBS, "finish_reason": _FINISH_REASON},
        usage=USAGE,
    ),
    "usage",
)
COMPLETION_CHUNK = _make_answer(
    "text_completion",
    {"index": _COUNT, "text": _TEXT, "logprobs": _OLD_LOGPROBS, "finish_reason": _maybe(_FINISH_REASON)},
    usage=_maybe(USAGE),
)
_VECTOR: Schema = {"anyOf": [make_list(_NUMBER), {"type": "string", "description": "base64 of little-endian float32"}]}
EMBEDDINGS = make_object(
    {
        "object": _const("list"),
        "data": make_list(make_object({"object": _const("embedding"), "index": _COUNT, "embedding": _VECTOR})),
        "model": _TEXT,
        "usage": _POOLING_USAGE,
    }
)
RERANKING = make_object(
    {
        "id": _TEXT,
        "model": _TEXT,
        "results": make_list(
            make_object({"index": _COUNT, "relevance_score": _NUMBER}, document=make_object({"text": _TEXT}))
        ),
        "usage": _POOLING_USAGE,
    }
)
SCORES = make_object(
    {
        "id": _TEXT,
        "object": _const("list"),
        "created": _COUNT,
        "model": _TEXT,
        "data": make_list(make_object({"index": _COUNT, "object": _const("score"), "score": _NUMBER})),
        "usage": _POOLING_USAGE,
    }
)
_DURATION = make_object({"type": _const("duration"), "seconds": _COUNT})
_SEGMENT = make_object(
    {
        "id": _COUNT,
        "seek": _COUNT,
        "start": _NUMBER,
        "end": _NUMBER,
        "text": _TEXT,
        "tokens": make_list(_COUNT),
        "temperature": _NUMBER,
        "avg_logprob": _NUMBER,
        "compression_ratio": _NUMBER,
        "no_speech_prob": _NUMBER,
    }
)
TRANSCRIPTION: Schema = {
    "anyOf": [
        make_object({"text": _TEXT, "usage": _DURATION}),
        make_object(
            {
                "task": {"type": "string", "enum": ["transcribe", "translate"]},
                "language": _TEXT,
                "duration": _NUMBER,
                "text": _TEXT,
                "usage": _DURATION,
            },
            words=make_list(make_object({"word": _TEXT, "start": _NUMBER, "end": _NUMBER})),
            segments=make_list(_SEGMENT),
        ),
    ]
}
_TOKENS = make_object(
    {"type": _const("tokens"), "input_tokens": _COUNT, "output_tokens": _COUNT, "total_tokens": _COUNT}
)
TRANSCRIPTION_EVENT: Schema = {
    "anyOf": [
        make_object({"type": _const("transcript.text.delta"), "delta": _TEXT}),
        make_object({"type": _const("transcript.text.done"), "text": _TEXT, "usage": _TOKENS}),
    ]
}
# Components of the OpenAPI document: answers and, in streams, what each event holds.
COMPONENTS: dict[str, Schema] = {
    "ChatCompletion": CHAT_COMPLETION,
    "ChatCompletionChunk": CHAT_CHUNK,
    "Completion": COMPLETION,
    "CompletionChunk": COMPLETION_CHUNK,
    "Embeddings": EMBEDDINGS,
    "Reranking": RERANKING,
    "Scores": SCORES,
    "Transcription": TRANSCRIPTION,
    "TranscriptionEvent": TRANSCRIPTION_EVENT,
}
# operation -> its answer, and the events of its stream
ANSWERS: dict[str, tuple[str, str | None]] = {
    "create_chat_completion": ("ChatCompletion", "ChatCompletionChunk"),
    "create_completion": ("Completion", "CompletionChunk"),
    "create_response": ("Response", None),
    "create_embedding": ("Embeddings", None),
    "rerank": ("Reranking", None),
    "score": ("Scores", None),
    "create_transcription": ("Transcription", "TranscriptionEvent"),
    "create_translation": ("Transcription", None),
}
