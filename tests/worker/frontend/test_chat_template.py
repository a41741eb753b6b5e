"""Messages as clients write them, through templates as models bring them."""

import json
from typing import Any

import pytest
from transformers import AutoTokenizer

from gpu_worker.frontend.chat_template import ChatTemplate
from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.tokenizer import TextTokenizer
from tests.worker_process import DEMO_MODEL

PLAIN = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
PARTS = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}{% endfor %}\n{% endfor %}"
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('Start with the user.') }}{% endif %}" + PLAIN
# arguments are joined as text: an object fails
ARGUMENT_TEXT = (
    "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    '{% for c in m.tool_calls or [] %}<tool_call>{"name": "{{ c.function.name }}", "arguments": '
    "{{ '' + c.function.arguments }}}</tool_call>{% endfor %}\n{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


@pytest.fixture
def build(byte_level: TextTokenizer) -> Any:
    def build_template(source: str | None) -> ChatTemplate:
        byte_level.hf.chat_template = source
        return ChatTemplate(byte_level.hf)

    return build_template


@pytest.fixture(scope="module")
def demo() -> ChatTemplate:
    return ChatTemplate(AutoTokenizer.from_pretrained(DEMO_MODEL))


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Hi", "Hi"),
        (None, ""),
        ("", ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "input_text", "text": "a"}], "a"),
    ],
)
@pytest.mark.parametrize("source", [PLAIN, PARTS])
def test_every_form_of_text_content(build: Any, source: str, content: Any, expected: str) -> None:
    assert expected in build(source).render(user(content)).text
    assert "None" not in build(source).render(user(content)).text


def test_developer_becomes_system_where_the_template_lacks_it(build: Any) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *user("Hi")]
    assert build(PLAIN).render(messages).text.startswith("[system] Be brief.")
    knows_it = PLAIN + "{% if false %}developer{% endif %}"
    assert build(knows_it).render(messages).text.startswith("[developer] Be brief.")


@pytest.mark.parametrize("arguments", ['{"city": "Köln"}', {"city": "Köln"}])
def test_arguments_take_the_form_the_template_wants(build: Any, demo: ChatTemplate, arguments: Any) -> None:
    messages = [*user("w"), {"role": "assistant", "content": None, "tool_calls": [call(arguments)]}]
    for template in (build(ARGUMENT_TEXT), demo):
        assert '"arguments": {"city": "Köln"}' in template.render(messages).text


def test_arguments_that_are_no_json_stay_as_the_model_wrote_them(demo: ChatTemplate) -> None:
    messages = [*user("w"), {"role": "assistant", "tool_calls": [call('{"city": ')]}]
    assert '{"city": ' in demo.render(messages).text


def test_tools_and_tool_results(demo: ChatTemplate) -> None:
    messages = [
        *user("Weather?"),
        {"role": "assistant", "content": "", "tool_calls": [call('{"city": "Paris"}')]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "18 degrees"}]},
    ]
    text = demo.render(messages, tools=[TOOL]).text
    assert json.dumps(TOOL["function"]) in text
    assert "18 degrees" in text
    assert text.endswith("<|im_start|>assistant\n")


def test_final_message_is_continued(demo: ChatTemplate) -> None:
    messages = [*user("Hi"), {"role": "assistant", "content": "Hello, I"}]
    prompt = demo.render(messages, ending="continued")
    assert prompt.text.endswith("<|im_start|>assistant\nHello, I")
    assert prompt.continued == "Hello, I"
    with pytest.raises(RequestRejected, match="final message"):
        demo.render(user("Hi"), ending="continued")


def test_template_kwargs_reach_the_template(build: Any) -> None:
    template = build(PLAIN + "{{ 'ON' if enable_thinking else 'OFF' }}")
    assert template.render(user("Hi"), template_kwargs={"enable_thinking": True}).text.endswith("ON")
    assert template.render(user("Hi")).text.endswith("OFF")


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "messages", "tools", "return_tensors", "a-b"])
def test_template_kwargs_cannot_reach_anything_else(demo: ChatTemplate, name: str) -> None:
    with pytest.raises(RequestRejected) as rejection:
        demo.render(user("Hi"), template_kwargs={name: "x"})
    assert rejection.value.param == f"chat_template_kwargs.{name}"


def test_template_says_why_it_refuses(build: Any) -> None:
    with pytest.raises(RequestRejected) as rejection:
        build(STRICT).render([{"role": "system", "content": "x"}])
    assert rejection.value.code == "invalid_request"
    assert "Start with the user." in rejection.value.message


def test_template_that_breaks_is_no_fault_of_the_worker(build: Any) -> None:
    template = build(PLAIN + "{{ 1 / (messages | length - 2) }}")
    with pytest.raises(RequestRejected) as rejection:
        template.render([*user("a"), *user("b")])
    assert rejection.value.code == "invalid_request"


def test_model_without_a_template_refuses_messages(build: Any) -> None:
    with pytest.raises(RequestRejected, match="chat template") as rejection:
        build(None).render(user("Hi"))
    assert (rejection.value.code, rejection.value.param) == ("unsupported", "messages")


@pytest.mark.parametrize("source", [PLAIN, ARGUMENT_TEXT.replace("<tool_call>", "<other>")])
def test_tools_are_refused_where_they_cannot_work(build: Any, source: str) -> None:
    template = build(source)
    assert template.tool_call_parser is None
    with pytest.raises(RequestRejected) as rejection:
        template.render(user("Hi"), tools=[TOOL])
    assert (rejection.value.code, rejection.value.param) == ("unsupported", "tools")


@pytest.mark.parametrize(
    ("messages", "code", "param"),
    [
        ("Hi", "invalid_request", "messages"),
        ([], "invalid_request", "messages"),
        (["Hi"], "invalid_request", "messages[0]"),
        ([{"content": "x"}], "invalid_request", "messages[0].role"),
        ([{"role": ["user"]}], "invalid_request", "messages[0].role"),
        (user(3), "invalid_request", "messages[0].content"),
        (user([{"type": "text"}]), "invalid_request", "messages[0].content[0].text"),
        (user([{"type": "hologram"}]), "invalid_request", "messages[0].content[0].type"),
        (user([{"type": []}]), "invalid_request", "messages[0].content[0].type"),
        (user([{"type": {}, "media": "m"}]), "invalid_request", "messages[0].content[0].type"),
        ([*user("a"), *user([{"type": "text", "text": "b"}, {}])], "invalid_request", "messages[1].content[1].type"),
        (user([{"type": "input_audio"}]), "unsupported", "messages[0].content[0]"),
        ([{"role": "user", "content": "a", "name": 1}], "invalid_request", "messages[0].name"),
        ([{"role": "assistant", "tool_calls": [{}]}], "invalid_request", "messages[0].tool_calls[0].function.name"),
        (
            [{"role": "assistant", "tool_calls": [call(3)]}],
            "invalid_request",
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_faulty_messages_are_refused_by_name(demo: ChatTemplate, messages: Any, code: str, param: str) -> None:
    with pytest.raises(RequestRejected) as rejection:
        demo.render(messages)
    assert (rejection.value.code, rejection.value.param) == (code, param)


def say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_late_words_of_the_system_stay_where_the_template_takes_them(demo: ChatTemplate) -> None:
    prompt = demo.render([*user("Hi"), say("system", "Be brief.")])
    assert "<|im_start|>system\nBe brief.<|im_end|>" in prompt.text


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        ([say("user", "a"), say("system", "b")], "[user]a\n\nb"),
        ([say("user", "a"), say("system", "b"), say("user", "c")], "[user]a\n\nb\n\nc"),
        ([say("user", "a"), say("assistant", "b"), say("system", "c")], "[user]a[assistant]b[user]c"),
        (
            [say("user", "a"), say("assistant", "b"), say("system", "c"), say("user", "d")],
            "[user]a[assistant]b[user]c\n\nd",
        ),
        ([say("system", "a"), say("system", "b"), say("user", "c")], "[system]a\n\nb[user]c"),
        ([say("user", "a"), say("user", "b")], "[user]a[user]b"),
    ],
    ids=["last", "between", "after-answer", "before-user", "first-two", "none"],
)
def test_late_words_of_the_system_become_the_user_s_where_it_takes_none(
    build: Any, chat: list[dict[str, Any]], expected: str
) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    assert build(source).render(chat).text == expected
