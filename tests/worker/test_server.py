"""A real worker with the demo model, over its WebSocket: what requests are answered."""

import asyncio

import pytest

from gpu_worker.protocol import (
    Delta,
    Failed,
    Finished,
    ResumeChoice,
    Started,
    Structure,
)
from tests.worker.conftest import MAX_MODEL_LEN, NUM_BLOCKS
from tests.worker.link import Link, chat, complete, open_link
from tests.worker_process import WorkerProcess

LONG = "Tell me a long story."


async def test_ready_describes_the_model(worker: WorkerProcess) -> None:
    async with open_link(worker, wait_until_ready=False) as link:
        info = (await link.wait_ready()).info
    assert info.max_model_len == MAX_MODEL_LEN
    assert info.num_blocks == NUM_BLOCKS
    assert info.has_chat_template
    assert info.supports_tools


async def test_chat_streams_tokens_and_ends_with_usage(link: Link) -> None:
    answer = await link.ask(chat("r1", "Hello!"))
    started, *deltas, finished = answer.events
    assert isinstance(started, Started)
    assert all(isinstance(delta, Delta) and len(delta.token_ids) == 1 for delta in deltas)
    assert isinstance(finished, Finished)
    assert finished.reason in ("stop", "length")
    assert finished.usage.prompt_tokens == started.prompt_tokens > 0
    assert finished.usage.completion_tokens == len(deltas)
    assert finished.timing.device_s > 0
    assert answer.join()


async def test_concurrent_requests_answer_as_alone(link: Link) -> None:
    texts = ["Hello!", "What is Atrium?", "Who are you?", "How do I get an API key?", "Thanks!", "Count from 1 to 20."]
    requests = [
        chat(f"a{i}-{temperature}", text, temperature=temperature, seed=i)
        for i, text in enumerate(texts)
        for temperature in (0.0, 0.9)
    ]
    alone = {request.id: (await link.ask(request)).token_ids() for request in requests}
    together = await asyncio.gather(*(link.ask(request) for request in requests))
    assert [answer.token_ids() for answer in together] == [alone[request.id] for request in requests]


async def test_choices_differ_and_the_prompt_counts_once(link: Link) -> None:
    answer = await link.ask(chat("n1", "Tell me a story.", n=3, temperature=1.5, max_tokens=12))
    finished = answer.of_type(Finished)
    assert sorted(event.index for event in finished) == [0, 1, 2]
    assert [event.last for event in finished] == [False, False, True]
    texts = [answer.token_ids(index) for index in range(3)]
    assert len({tuple(text) for text in texts}) > 1
    usage = answer.end.usage
    assert usage.completion_tokens == sum(map(len, texts))
    assert usage.prompt_tokens == answer.of_type(Started)[0].prompt_tokens


async def test_logprobs_travel_with_their_tokens(link: Link) -> None:
    answer = await link.ask(chat("lp", "Hello!", top_logprobs=3, max_tokens=8))
    for delta in answer.of_type(Delta):
        (entry,) = delta.logprobs or []
        assert [entry.token_id] == delta.token_ids
        assert entry.logprob <= 0
        assert len(entry.top) == 3
        assert entry.top[0].token_id == entry.token_id  # greedy
        assert entry.bytes.decode(errors="replace") == entry.token


async def test_stop_string_ends_at_its_token_and_is_not_shown(link: Link) -> None:
    whole = await link.ask(chat("s0", "What is Atrium?"))
    text = whole.join()
    stop = text[len(text) // 2 : len(text) // 2 + 4]
    cut = await link.ask(chat("s1", "What is Atrium?", stop=(stop,)))
    assert cut.join() == text[: text.index(stop)]
    assert (cut.end.reason, cut.end.stop) == ("stop", stop)
    num_tokens = len(cut.token_ids())
    assert cut.token_ids() == whole.token_ids()[:num_tokens]
    assert cut.end.usage.completion_tokens == num_tokens < len(whole.token_ids())


async def test_stop_token_is_named(link: Link) -> None:
    token_ids = (await link.ask(chat("st0", "Hello!"))).token_ids()
    answer = await link.ask(chat("st1", "Hello!", stop_token_ids=(token_ids[2],)))
    assert answer.token_ids() == token_ids[: token_ids.index(token_ids[2]) + 1]
    assert (answer.end.reason, answer.end.stop) == ("stop", token_ids[2])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_resumed_request_continues_exactly(link: Link, temperature: float) -> None:
    fields = {"temperature": temperature, "stop": ("zzz", " the end"), "n": 2}
    whole = await link.ask(chat(f"u{temperature}", "What is Atrium?", **fields))
    seen = [9, 3]
    resume = [ResumeChoice(index=i, token_ids=whole.token_ids(i)[: seen[i]]) for i in range(2)]
    rest = await link.ask(chat(f"v{temperature}", "What is Atrium?", resume=resume, **fields))
    for index in range(2):
        sent = [event for event in whole.of_type(Delta) if event.index == index]
        assert rest.token_ids(index) == whole.token_ids(index)[seen[index] :]
        assert rest.join(index) == "".join(event.text for event in sent[seen[index] :])
    assert rest.end.usage.completion_tokens == whole.end.usage.completion_tokens


async def test_resume_of_a_finished_choice_only_ends_it(link: Link) -> None:
    whole = await link.ask(chat("f0", "Hello!", max_tokens=60))
    resume = [ResumeChoice(index=0, token_ids=whole.token_ids())]
    answer = await link.ask(chat("f1", "Hello!", max_tokens=60, resume=resume))
    assert [type(event) for event in answer.events] == [Started, Finished]
    assert answer.end.reason == whole.end.reason
    assert answer.end.usage.completion_tokens == len(whole.token_ids())


async def test_completion_echoes_its_prompt(link: Link) -> None:
    answer = await link.ask(complete("e0", "Hello there", echo=True, max_tokens=3))
    assert answer.join().startswith("Hello there")
    assert len(answer.token_ids()) == 3
    plain = await link.ask(complete("e1", "Hello there", max_tokens=3))
    assert "Hello there" + plain.join() == answer.join()


async def test_completion_of_token_ids(link: Link) -> None:
    answer = await link.ask(complete("t0", [10, 20, 30], echo=True, max_tokens=0))
    assert answer.end.reason == "length"
    assert answer.end.usage.completion_tokens == 0
    assert answer.join()


async def test_max_tokens_is_clamped_to_the_context(link: Link) -> None:
    prompt = [20] * (MAX_MODEL_LEN - 5)
    answer = await link.ask(complete("c0", prompt, max_tokens=100, ignore_eos=True))
    assert answer.end.reason == "length"
    assert len(answer.token_ids()) == 5


async def test_context_overflow_is_explained_in_openai_words(link: Link) -> None:
    answer = await link.ask(complete("c1", [20] * 3000, max_tokens=100))
    assert answer.events == [
        Failed(
            id="c1",
            code="context_length_exceeded",
            message=(
                "This model's maximum context length is 2048 tokens. However, you requested 3100 tokens (3000 in the "
                "prompt, 100 in the completion). Please reduce the length of the prompt or completion."
            ),
            param="prompt",
            timing=answer.end.timing,
        )
    ]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"temperature": float("nan")}, "invalid_request", "temperature"),
        ({"n": 0}, "invalid_request", "n"),
        ({"stop": ("",)}, "invalid_request", "stop"),
        ({"logit_bias": {10**9: 1.0}}, "invalid_request", "logit_bias"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "invalid_request", "messages[0].role"),
        ({"tools": [{"type": "function", "function": {}}]}, "invalid_request", "tools[0].function.name"),
        ({"tool_choice": "required"}, "invalid_request", "tool_choice"),
        ({"structure": Structure("json_schema", '{"not": {}}')}, "unsupported", "response_format"),
        ({"structure": Structure("regex", "(", "guided_regex")}, "invalid_request", "guided_regex"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            "unsupported",
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "media": "key"}]}], "media": {"key": b"?"}},
            "unsupported",
            "messages[0].content[0].image_url",
        ),
        ({"resume": [ResumeChoice(5, [1])]}, "invalid_request", "resume"),
    ],
)
async def test_invalid_requests_are_refused_by_name(
    link: Link, fields: dict[str, object], code: str, param: str
) -> None:
    (failed,) = (await link.ask(chat("bad", "Hello!", **fields))).events
    assert (failed.code, failed.param) == (code, param)
    assert failed.message


async def test_log_names_requests_and_no_prompts(link: Link, worker: WorkerProcess) -> None:
    prompt = "Nobody else should read this."
    await link.ask(chat("fine", prompt))
    await link.ask(chat("refused", prompt, resume=[ResumeChoice(5, [1])]))
    assert "request refused refused" in worker.log
    assert prompt not in worker.log
    assert "Traceback" not in worker.log
