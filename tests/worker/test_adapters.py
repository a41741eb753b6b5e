"""A real worker with several adapters: read when asked for, beside other requests, and let go again."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from transformers import AutoModelForCausalLM

from gpu_worker.protocol import AdapterRef, Delta, Failed, Finished, ResumeChoice, Structure, Usage
from tests.tiny_adapters import make_adapter
from tests.worker.link import Answer, Link, chat, complete, open_link
from tests.worker_process import DEMO_MODEL, DEMO_VOCAB_SIZE, WorkerProcess, run_worker

pytestmark = pytest.mark.slow  # real workers: seconds each

NAMES = ("one", "two", "three")
PROMPT = [token_id % DEMO_VOCAB_SIZE for token_id in range(300, 380, 2)]
NUM_TOKENS = 12
MAX_MODEL_LEN = 16_384  # long enough that no answer is complete when it is aborted
WAIT_S = 60.0


class Saved:
    """The adapters in their folders, and what peft answers to PROMPT with each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
        self.expected: dict[str | None, list[int]] = {None: generate(model)}
        for seed, name in enumerate(NAMES):
            settings = {"target_modules": ["q_proj", "down_proj"]} if seed else {}
            adapted = make_adapter(model, folder / name, seed=seed, spread=0.1, **settings)
            self.expected[name] = generate(adapted)

    def ref(self, name: str) -> AdapterRef:
        return AdapterRef(name, str(self.folder / name))


@torch.inference_mode()
def generate(model: Any) -> list[int]:
    input_ids = torch.tensor([PROMPT])
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=[DEMO_VOCAB_SIZE],  # a token that never comes
        pad_token_id=0,
    )
    return output[0, len(PROMPT) :].tolist()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    """One that keeps two adapters."""
    with run_worker(
        max_model_len=MAX_MODEL_LEN, num_blocks=1200, max_num_seqs=8, max_waiting=40, dtype="float32", max_loras=2
    ) as process:
        yield process


@pytest.fixture
async def link(worker: WorkerProcess) -> AsyncIterator[Link]:
    async with open_link(worker) as open_:
        yield open_


def make(request_id: str, adapter: AdapterRef | None, **fields: Any) -> Any:
    given = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "adapter": adapter} | fields
    return complete(request_id, PROMPT, **given)


def get_usage(answer: Answer) -> Usage:
    return answer.of_type(Finished)[-1].usage


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline_s, "what the test waits for never came"
        await asyncio.sleep(0.02)


async def wait_for_adapters(worker: WorkerProcess, *names: str) -> None:
    """Until exactly these are loaded, the one used last at the end."""
    await wait_until(lambda: worker.get_health()[1]["adapters"] == list(names))


async def start_long(link: Link, request_id: str, adapter: AdapterRef | None) -> None:
    """A request that goes on until it is aborted."""
    await link.send(make(request_id, adapter, max_tokens=MAX_MODEL_LEN))
    await link.wait_for(request_id, Delta)


async def stop(link: Link, request_id: str) -> None:
    await link.abort(request_id)
    assert (await link.collect(request_id)).end.reason == "abort"


async def test_answers_with_several_adapters_at_once_are_pefts(link: Link, saved: Saved) -> None:
    """All ask at the same time, each adapter several times and before it was ever loaded."""
    names = [None, *NAMES] * 3
    messages = [make(f"m{i}", name and saved.ref(name)) for i, name in enumerate(names)]
    answers = await asyncio.gather(*(link.ask(message) for message in messages))
    assert [answer.token_ids() for answer in answers] == [saved.expected[name] for name in names]
    assert len({tuple(tokens) for tokens in saved.expected.values()}) == len(saved.expected)


async def test_all_who_ask_first_wait_for_one_reading(
    worker: WorkerProcess, link: Link, saved: Saved, tmp_path: Path
) -> None:
    ref = AdapterRef("fresh", str(shutil.copytree(saved.folder / "one", tmp_path / "fresh")))
    answers = await asyncio.gather(*(link.ask(make(f"first{i}", ref)) for i in range(6)))
    assert [answer.token_ids() for answer in answers] == [saved.expected["one"]] * 6
    assert worker.log.count("adapter fresh loaded") == 1


async def test_prefixes_are_cached_for_each_adapter(link: Link, saved: Saved) -> None:
    salt = {"cache_salt": "prefixes"}
    cached = []
    for index, name in enumerate((None, "one", "two", None, "one", "two")):
        answer = await link.ask(make(f"p{index}", name and saved.ref(name), **salt))
        assert answer.token_ids() == saved.expected[name]
        cached.append(get_usage(answer).cached_tokens)
    assert cached[:3] == [0, 0, 0]
    assert min(cached[3:]) > 0


async def test_resumed_answers_choices_logprobs_and_forms(link: Link, saved: Saved) -> None:
    one = saved.ref("one")
    whole = saved.expected["one"]
    resumed = await link.ask(make("r", one, resume=[ResumeChoice(0, whole[:5])]))
    assert resumed.token_ids() == whole[5:]
    several = await link.ask(make("n", one, n=3, temperature=0.8))
    alone = await link.ask(make("n1", one, n=1, temperature=0.8))
    assert several.token_ids(0) == alone.token_ids(0)
    assert several.token_ids(1) != several.token_ids(2)
    likely = await link.ask(make("l", one, top_logprobs=2))
    assert [delta.logprobs[0].token_id for delta in likely.of_type(Delta)] == whole
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 3, "maxItems": 3}
    form = Structure("json_schema", json.dumps(schema))
    formed = await link.ask(chat("s", "Numbers, please.", structure=form, adapter=one))
    jsonschema.validate(json.loads(formed.join()), schema)


async def test_those_in_use_stay_and_the_longest_unused_goes(worker: WorkerProcess, link: Link, saved: Saved) -> None:
    for name in ("one", "two", "three"):
        await link.ask(make(f"before-{name}", saved.ref(name)))
    await wait_for_adapters(worker, "two", "three")
    await start_long(link, "long", saved.ref("two"))
    for name in ("three", "one"):
        assert (await link.ask(make(f"beside-{name}", saved.ref(name)))).token_ids() == saved.expected[name]
    await wait_for_adapters(worker, "two", "one")
    await start_long(link, "longer", saved.ref("one"))
    assert (await link.ask(make("third", saved.ref("three")))).token_ids() == saved.expected["three"]
    await wait_for_adapters(worker, "two", "one")
    await stop(link, "long")
    await stop(link, "longer")
    await link.ask(make("last", saved.ref("three")))
    await wait_for_adapters(worker, "one", "three")


async def test_a_request_aborted_while_its_adapter_loads_holds_nothing(
    worker: WorkerProcess, link: Link, saved: Saved, tmp_path: Path
) -> None:
    shutil.copytree(saved.folder / "one", tmp_path / "copy")
    await link.send(make("gone", AdapterRef("copy", str(tmp_path / "copy"))))
    await link.abort("gone")
    assert isinstance((await link.collect("gone")).end, Finished)
    await wait_until(lambda: "adapter copy loaded" in worker.log)
    for name in ("two", "three"):
        await link.ask(make(f"after-{name}", saved.ref(name)))
    await link.ask(make("again", saved.ref("two")))
    await wait_for_adapters(worker, "three", "two")


async def test_a_bad_adapter_fails_its_own_request(link: Link, saved: Saved, tmp_path: Path) -> None:
    broken = shutil.copytree(saved.folder / "one", tmp_path / "broken")
    settings = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    await start_long(link, "beside", saved.ref("two"))
    for _ in range(2):
        failed = (await link.ask(make("bad", AdapterRef("broken", str(broken))))).end
        assert isinstance(failed, Failed)
        assert (failed.code, failed.param) == ("unsupported", "model")
        assert failed.message == "The adapter 'broken' cannot be used. It is a DoRA adapter (use_dora), " \
            "which is not supported."  # fmt: skip
    missing = (await link.ask(make("missing", AdapterRef("gone", str(tmp_path / "gone"))))).end
    assert isinstance(missing, Failed)
    assert str(tmp_path) not in missing.message
    await link.wait_for("beside", Delta)
    await stop(link, "beside")


async def test_a_folder_with_new_weights_is_read_again(link: Link, saved: Saved, tmp_path: Path) -> None:
    folder = shutil.copytree(saved.folder / "one", tmp_path / "changing")
    ref = AdapterRef("changing", str(folder))
    assert (await link.ask(make("old", ref))).token_ids() == saved.expected["one"]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(saved.folder / "two" / name, tmp_path / name)
        (tmp_path / name).replace(folder / name)
    new = await link.ask(make("new", ref))
    assert new.token_ids() == saved.expected["two"]
    assert new.token_ids() != saved.expected["one"]
