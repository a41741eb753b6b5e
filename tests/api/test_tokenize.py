"""/v1/tokenize and /v1/detokenize: the very tokens that a generation would compute, and none of them computed."""

import httpx
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from apps.usage.models import UsageRecord
from apps.usage.recorder import recorder
from gpu_worker.frontend.tokenization import MAX_LISTED
from tests.api.conftest import Api
from tests.api.demo_fixtures import demo_api, demo_worker
from tests.scripted_worker import ScriptedWorker
from tests.worker_process import DEMO_MODEL, DEMO_VOCAB_SIZE

__all__ = ["demo_api", "demo_worker"]  # fixtures

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def ask(api: Api, path: str = "/v1/tokenize", **body: object) -> httpx.Response:
    return api.post(path, {"model": "demo", **body})


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/tokenize", "/tokenize"])
def test_a_text(demo_api: Api, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    text = "Grüße, <|im_end|> 世界"
    answer = ask(demo_api, path, prompt=text, return_token_strs=True).json()
    expected = tokenizer(text)["input_ids"]
    assert (answer["tokens"], answer["count"], answer["max_model_len"]) == (expected, len(expected), 32768)
    assert answer["token_strs"] == tokenizer.convert_ids_to_tokens(expected)
    back = ask(demo_api, path.replace("tokenize", "detokenize"), tokens=expected)
    assert back.json() == {"prompt": text}
    assert ask(demo_api, path, prompt="").json() == {
        "count": 0, "max_model_len": 32768, "tokens": [], "token_strs": None,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"continue_final_message": True, "add_generation_prompt": False},
    ],
    ids=["plain", "tools", "tools-none", "continued"],
)
def test_messages_come_to_what_a_chat_counts(demo_api: Api, fields: dict[str, object]) -> None:
    messages = HELLO
    if "continue_final_message" in fields:
        messages = [*HELLO, {"role": "assistant", "content": "Hello, I"}]
    counted = ask(demo_api, messages=messages, **fields).json()["count"]
    chat = demo_api.post("/v1/chat/completions", {"model": "demo", "messages": messages, "max_tokens": 1, **fields})
    assert chat.json()["usage"]["prompt_tokens"] == counted
    assert recorder.flush()
    assert UsageRecord.objects.count() == 1, "the chat's; counting costs nothing"


@pytest.mark.slow
def test_messages_without_what_opens_the_answer(demo_api: Api, tokenizer: PreTrainedTokenizerBase) -> None:
    closed = ask(demo_api, messages=HELLO, add_generation_prompt=False).json()["tokens"]
    assert tokenizer.decode(closed) == "<|im_start|>user\nhello<|im_end|>\n"
    assert ask(demo_api, messages=HELLO).json()["tokens"][: len(closed)] == closed


@pytest.mark.slow
def test_text_of_messages_is_never_a_control_token(demo_api: Api, tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = ask(demo_api, messages=[{"role": "user", "content": "a<|im_end|>b"}]).json()["tokens"]
    assert tokens.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1
    assert "a<|im_end|>b" in tokenizer.decode(tokens)


@pytest.mark.slow
def test_more_than_the_context_is_counted_too(demo_api: Api) -> None:
    answer = ask(demo_api, prompt="1 " * 20_000)
    assert answer.status_code == 200
    assert answer.json()["count"] > answer.json()["max_model_len"]


@pytest.mark.slow
def test_more_than_can_be_listed_is_refused_and_still_counted(demo_api: Api) -> None:
    text = "1 " * (MAX_LISTED // 2 + 1)
    for path, body, param in (
        ("/v1/tokenize", {"prompt": text}, "prompt"),
        ("/v1/detokenize", {"tokens": [1] * (MAX_LISTED + 1)}, "tokens"),
    ):
        answer = ask(demo_api, path, **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    counted = ask(demo_api, "/v1/messages/count_tokens", messages=[{"role": "user", "content": text}])
    assert counted.json()["input_tokens"] > MAX_LISTED


@pytest.mark.slow
def test_what_is_no_token_is_refused(demo_api: Api) -> None:
    for tokens, param in [([DEMO_VOCAB_SIZE], "tokens"), ([1, -1], "tokens[1]")]:
        answer = ask(demo_api, "/v1/detokenize", tokens=tokens)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    with demo_api.client() as client:
        surrogate = client.post("/tokenize", content=rb'{"model": "demo", "prompt": "\ud800"}')
    assert surrogate.status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/tokenize", {}, "prompt"),
        ("/v1/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/v1/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/v1/tokenize", {"prompt": "a", "tools": [TOOL]}, "tools"),
        ("/v1/tokenize", {"messages": []}, "messages"),
        ("/v1/tokenize", {"messages": HELLO, "add_special_tokens": True}, "add_special_tokens"),
        ("/v1/tokenize", {"messages": HELLO, "chat_template": "x"}, "chat_template"),
        ("/v1/tokenize", {"messages": HELLO, "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        (
            "/v1/tokenize",
            {"messages": HELLO, "add_generation_prompt": True, "continue_final_message": True},
            "add_generation_prompt",
        ),
        ("/v1/tokenize", {"prompt": "a", "promt": "b"}, "promt"),
        ("/v1/detokenize", {}, "tokens"),
        ("/v1/detokenize", {"tokens": "1"}, "tokens"),
        ("/v1/detokenize", {"tokens": [1], "skip_special_tokens": True}, "skip_special_tokens"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_named(
    chat_api: Api, path: str, body: dict[str, object], param: str
) -> None:
    answer = chat_api.post(path, {"model": "scripted", **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_who_may_not_use_a_model_may_not_ask_its_tokenizer(chat_api: Api, worker: ScriptedWorker) -> None:
    for path, body in (("/v1/tokenize", {"prompt": "a"}), ("/v1/detokenize", {"tokens": [1]})):
        assert httpx.post(chat_api.url + path, json={"model": "scripted", **body}).status_code == 401
        assert chat_api.post(path, {"model": "nobodys", **body}).status_code == 404
        with chat_api.client() as client:
            assert client.get(path).status_code == 405
    assert worker.received == []


def test_a_lost_replica_s_question_goes_to_the_next(chat_api: Api, worker: ScriptedWorker) -> None:
    assert chat_api.post("/tokenize", {"model": "scripted", "prompt": "a"}).json()["count"] == 5
    worker.kill()
    worker.restart()
    assert chat_api.post("/tokenize", {"model": "scripted", "prompt": "a"}).json()["tokens"] == [0, 1, 2, 3, 4]
