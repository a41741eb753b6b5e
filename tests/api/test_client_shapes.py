"""What Jan, Cursor, Open WebUI and Cline send, replayed as their public sources have it, and what each needs back.

Those programs need a desktop, a cloud or gigabytes; here are their requests alone: headers, bodies, pre-flights.
"""

import json
from typing import Any

import httpx
import pytest

from gpu_worker.protocol import Delta, ToolCallDelta
from tests.api.conftest import Api
from tests.api.sse import parse_events
from tests.scripted_worker import Answer, ScriptedWorker

CHAT = "/v1/chat/completions"
READ = {"path": {"type": "string", "description": "Where it is"}}
FUNCTION = {"name": "read_file", "description": "Read a file", "parameters": {"type": "object", "properties": READ}}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
NESTED = {"type": "function", "function": FUNCTION}
PATCH_GRAMMAR = 'start: "*** Begin Patch" LF line+ "*** End Patch" LF?\nline: /[+ -]/ /(.*)/ LF\n%import common.LF'
APPLY_PATCH = {
    "type": "custom",
    "name": "ApplyPatch",
    "description": "Apply a patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": PATCH_GRAMMAR},
}


def get_models(api: Api, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=api.url, timeout=60) as client:
        return client.get("/v1/models", headers=headers)


def stream(api: Api, body: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    """The chunks."""
    response = api.post(CHAT, body, headers=headers)
    assert response.status_code == 200, response.text
    assert response.text.endswith("data: [DONE]\n\n")
    return parse_events(response.text)


def join(chunks: list[dict[str, Any]]) -> str:
    """As all of them do: the first choice's content, where a chunk has one."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"][:1]]
    return "".join(delta.get("content") or "" for delta in deltas)


def check_usage_is_last(chunks: list[dict[str, Any]]) -> None:
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["prompt_tokens"]) == ([], 5)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


# --- Jan: its desktop app asks from Rust, with an Origin of its own and the key in two headers ---


def test_jan_lists_models(chat_api: Api) -> None:
    own = {"content-type": "application/json", "origin": "tauri://localhost"}
    key = {"x-api-key": chat_api.secret, "authorization": f"Bearer {chat_api.secret}"}
    listed = get_models(chat_api, **own, **key).json()
    assert [model["id"] for model in listed["data"]] == ["scripted"]
    assert get_models(chat_api, **own).status_code == 401  # which it tells from 403 and 404
    wrong = get_models(chat_api, **own, **{"x-api-key": "atr_wrong", "authorization": "Bearer atr_wrong"})
    assert wrong.status_code == 401
    with chat_api.client() as client:
        assert client.get("/v1/models/none", headers=own).status_code == 404


def test_jan_chats_with_its_sampling_and_tools(chat_api: Api, worker: ScriptedWorker) -> None:
    body = {
        "model": "scripted",
        "messages": [{"role": "system", "content": "You are Jan."}, {"role": "user", "content": "hi"}],
        "stream": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "repetition_penalty": 1.1,
        "tools": [NESTED],
        "tool_choice": "auto",
    }
    assert join(stream(chat_api, body, origin="tauri://localhost")) == Answer().text
    sampling = worker.generates[0].sampling
    assert (sampling.top_k, sampling.top_p, sampling.repetition_penalty) == (20, 0.8, 1.1)


def test_jans_pages_may_ask_from_a_window(chat_api: Api, settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["tauri://localhost", "http://tauri.localhost"]
    for origin in settings.CORS_ALLOWED_ORIGINS:
        check_preflight(chat_api, origin, "authorization,content-type,x-api-key")


# --- Cursor: Verify asks from its window, everything else from its servers, in two shapes ---


def check_preflight(api: Api, origin: str, headers: str) -> None:
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": headers}
    with httpx.Client(base_url=api.url, timeout=60) as client:
        answer = client.options(CHAT, headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == origin
    assert set(headers.split(",")) <= set(answer.headers["access-control-allow-headers"].split(","))


def test_cursor_verifies_a_key(chat_api: Api, settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["*"]
    origin = "vscode-file://vscode-app"
    check_preflight(chat_api, origin, "authorization,content-type")
    system = {"role": "system", "content": "You are a test assistant."}
    test = {"role": "user", "content": "Testing. Just say hi and nothing else."}
    answer = chat_api.post(CHAT, {"messages": [system, test], "model": "scripted"}, headers={"origin": origin})
    assert answer.json()["choices"][0]["message"]["content"] == Answer().text
    assert answer.headers["access-control-allow-origin"] == origin
    wrong = Api(chat_api.url, "atr_wrong").post(
        CHAT, {"messages": [test], "model": "scripted"}, headers={"origin": origin}
    )
    assert wrong.status_code == 401
    assert wrong.headers["access-control-allow-origin"] == origin  # else its window sees no more than "network error"
    assert wrong.json()["error"]["message"].startswith("Incorrect API key provided")


def test_cursors_agent_posts_the_responses_shape_to_chat(chat_api: Api, worker: ScriptedWorker) -> None:
    patch = "*** Begin Patch\n+x\n*** End Patch"
    pieces = [ToolCallDelta(0, "call_1", "ApplyPatch"), ToolCallDelta(0, arguments=json.dumps({"input": patch}))]
    worker.reply(Answer(deltas=tuple(Delta("", tool_calls=[piece]) for piece in pieces), reason="tool_calls"))
    body = {
        "model": "scripted",
        "user": "a-hash",
        "input": [
            {"role": "system", "content": "You are an agent."},
            {"role": "user", "content": [{"type": "input_text", "text": "Add a line."}]},
            {"type": "function_call", "call_id": "call_0", "name": "read_file", "arguments": '{"path": "a"}'},
            {"type": "function_call_output", "call_id": "call_0", "output": "nothing"},
            {"type": "custom_tool_call", "call_id": "call_2", "name": "ApplyPatch", "input": patch},
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "failed"},
        ],
        "tools": [{"type": "function", **FUNCTION, "strict": False}, APPLY_PATCH],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "text": {"verbosity": "medium"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "prompt_cache_retention": "24h",
        "metadata": {"cursorConversationId": "1"},
    }
    chunks = stream(chat_api, body)
    calls = [call for chunk in chunks[:-1] for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert (calls[0]["id"], calls[0]["type"], calls[0]["custom"]["name"]) == ("call_1", "custom", "ApplyPatch")
    assert "".join(call["custom"]["input"] for call in calls) == patch
    check_usage_is_last(chunks)
    sent = worker.generates[0]
    assert [message["role"] for message in sent.messages or []] == [
        *("system", "user", "assistant", "tool", "assistant", "tool")
    ]
    assert [tool["function"]["name"] for tool in sent.tools or []] == ["read_file", "ApplyPatch"]


def test_cursor_mixes_the_shapes_of_tools_and_of_histories(chat_api: Api, worker: ScriptedWorker) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "read_file", "input": {"path": "a.py"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "print(42)"}]}
    text = {"type": "text", "text": "What does it print?", "cache_control": {"type": "ephemeral"}}
    body = {
        "model": "scripted",
        "messages": [
            {"role": "user", "content": "read a file"},
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {"role": "tool", "tool_call_id": "call_1", "content": "no such file"},
            {"role": "assistant", "content": [{"type": "text", "text": "Again."}, use]},
            {"role": "user", "content": [result, text]},
        ],
        "tools": [NESTED, APPLY_PATCH, {"name": "ls", "description": "List", "input_schema": {"type": "object"}}],
        "stream": True,
        "temperature": 0,
    }
    assert join(stream(chat_api, body)) == Answer().text
    _, _, _, called, told, asked = worker.generates[0].messages or []
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"path": "a.py"}
    assert (told["tool_call_id"], told["content"], asked["content"]) == ("toolu_1", "print(42)", "What does it print?")
    assert len(worker.generates[0].tools or []) == 3


# --- Open WebUI: its server asks, with headers that say for whom ---

OPEN_WEBUI = {
    "x-openwebui-user-name": "Ann%20Other",
    "x-openwebui-user-id": "1",
    "x-openwebui-user-email": "ann@example.com",
    "x-openwebui-user-role": "user",
    "x-openwebui-chat-id": "c1",
    "x-openwebui-message-id": "m1",
}


def test_open_webui_lists_models_and_says_what_is_wrong(chat_api: Api) -> None:
    listed = get_models(chat_api, authorization=f"Bearer {chat_api.secret}", **OPEN_WEBUI).json()
    assert listed["data"][0].keys() >= {"id", "object", "owned_by", "created"}
    wrong = get_models(chat_api, authorization="Bearer atr_wrong").json()
    assert wrong["error"]["message"].startswith("Incorrect API key provided")


def test_open_webui_chats_and_names_the_chat(chat_api: Api, worker: ScriptedWorker) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    chunks = stream(
        chat_api,
        {
            "stream": True,
            "model": "scripted",
            "messages": messages,
            "stream_options": {"include_usage": True},
            "temperature": 0.8,
            "top_p": 0.9,
            "max_tokens": 9,
            "stop": ["END"],
            "logit_bias": {"5": -100},
        },
        **OPEN_WEBUI,
    )
    assert join(chunks) == Answer().text
    check_usage_is_last(chunks)
    title = {"model": "scripted", "messages": messages, "stream": False, "max_completion_tokens": 1000}
    answer = chat_api.post(CHAT, title, headers=OPEN_WEBUI).json()
    assert answer["choices"][0]["message"]["content"] == Answer().text
    assert worker.generates[1].sampling.max_tokens == 1000


# --- Cline: openai's SDK for JavaScript, always streamed, always with usage ---

CLINE = {
    "user-agent": "OpenAI/JS 4.96.0",
    "accept": "application/json",
    "x-stainless-lang": "js",
    "x-stainless-package-version": "4.96.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "node",
    "x-stainless-runtime-version": "v20.19.0",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
    "http-referer": "https://cline.bot",
    "x-title": "Cline",
}


@pytest.mark.parametrize("role", ["system", "developer"])
def test_cline(chat_api: Api, worker: ScriptedWorker, role: str) -> None:
    worker.reply(
        Answer(deltas=(Delta("", reasoning="hm"), Delta("", text="<attempt_completion>"), Delta("", text="ok")))
    )
    chunks = stream(
        chat_api,
        {
            "model": "scripted",
            "messages": [
                {"role": role, "content": "You are Cline."},
                {"role": "user", "content": [{"type": "text", "text": "<task>\nSay ok\n</task>"}]},
                {"role": "assistant", "content": "I read.", "tool_calls": [CALLED]},
                {"role": "tool", "tool_call_id": "call_1", "content": ""},
                {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
            ],
            "temperature": 0,
            "max_tokens": 8192,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [NESTED],
        },
        **CLINE,
    )
    reasoning = "".join(chunk["choices"][0]["delta"].get("reasoning_content", "") for chunk in chunks[:-1])
    assert (reasoning, join(chunks)) == ("hm", "<attempt_completion>ok")
    assert "prompt_tokens_details" in chunks[-1]["usage"]
    check_usage_is_last(chunks)
    assert next(message["role"] for message in worker.generates[0].messages or []) == role
