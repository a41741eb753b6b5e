"""What Codex CLI 0.169.0 sends to /v1/responses, with its long texts cut: accepted as it is, call and answer."""

from typing import Any

from gpu_worker.protocol import Delta, ToolCallDelta
from tests.api.conftest import Api
from tests.api.open_responses import check_stream
from tests.api.test_responses import PATH, parse_stream
from tests.scripted_worker import Answer, ScriptedWorker

PROMPT_ID = "01a20008-22d4-7292-8441-8577b24e8e26"


def function(name: str, **properties: str) -> dict[str, Any]:
    schema = {name: {"type": kind, "description": "…"} for name, kind in properties.items()}
    parameters = {"type": "object", "properties": schema, "additionalProperties": False}
    return {"type": "function", "name": name, "description": "…", "strict": False, "parameters": parameters}


def message(role: str, *texts: str) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "id": "msg_01a20008-23b4-7d02-91bd-6b4fd292fd27", "role": role, "content": parts}


BODY: dict[str, Any] = {
    "model": "scripted",
    "stream": True,
    "input": [
        message("developer", "You are a coding agent running in the Codex CLI."),
        message("developer", "<skills_instructions>…", "<permissions instructions>…"),
        message("user", "<environment_context>…</environment_context>"),
        message("user", "What is in README.md?"),
    ],
    "tools": [
        function("exec_command", cmd="string", max_output_tokens="number", tty="boolean"),
        function("view_image", path="string"),
        {
            "type": "namespace",
            "name": "multi_agent_v1",
            "description": "…",
            "tools": [function("close_agent", target="string"), function("spawn_agent", message="string")],
        },
        function("get_goal"),
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": PROMPT_ID,
    "client_metadata": {"session_id": PROMPT_ID, "x-codex-turn-metadata": '{"request_kind":"turn"}'},
}


def test_a_turn_with_a_call(chat_api: Api, worker: ScriptedWorker) -> None:
    call = ToolCallDelta(0, "call_1", "exec_command", '{"cmd":"cat README.md"}')
    deltas = (Delta("", reasoning="hm"), Delta("", text="I look."), Delta("", tool_calls=[call]))
    worker.reply(Answer(deltas=deltas, reason="tool_calls"))
    first = check_stream(parse_stream(chat_api.post(PATH, BODY).text))
    assert [item["type"] for item in first["output"]] == ["reasoning", "message", "function_call"]
    (sent,) = worker.generates
    names = [tool["function"]["name"] for tool in sent.tools or []]
    assert names == [
        "exec_command",
        "view_image",
        "multi_agent_v1__close_agent",
        "multi_agent_v1__spawn_agent",
        "get_goal",
    ]
    worker.say("It is a readme.")
    output = {"type": "function_call_output", "call_id": "call_1", "output": "# Atrium"}
    items = [*BODY["input"], *first["output"], output]
    second = check_stream(parse_stream(chat_api.post(PATH, BODY | {"input": items}).text))
    assert second["output"][0]["content"][0]["text"] == "It is a readme."
    told = (worker.generates[1].messages or [])[-1]
    assert told == {"role": "tool", "content": "# Atrium", "tool_call_id": "call_1"}
