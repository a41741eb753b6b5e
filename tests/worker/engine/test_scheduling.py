"""Scheduler, waiting queue and block manager: what is kept, what is evicted, and that the order is fair."""

import random
from collections import Counter

import pytest

from gpu_worker.engine.block_manager import BlockManager
from gpu_worker.engine.integrity import IntegrityError
from gpu_worker.engine.pace import PrefillPace
from gpu_worker.engine.request import Request
from gpu_worker.engine.scheduler import Scheduler
from gpu_worker.engine.waiting import WaitingQueue
from gpu_worker.protocol import Sampling
from tests.worker.engine.driving import make_engine, make_prompt, make_request, run_all, step

BLOCK_SIZE = 4


def test_integrity_check_sees_a_stolen_block() -> None:
    blocks = BlockManager(8, BLOCK_SIZE)
    request = make_request("r", [1, 2, 3, 4, 5])
    assert hold(blocks, request)
    blocks.check_integrity([request])
    request.block_ids.pop()
    with pytest.raises(IntegrityError):
        blocks.check_integrity([request])


def test_a_prefix_is_reused_only_under_the_same_salt() -> None:
    prompt = make_prompt(random.Random(0), 20)
    engine = make_engine("qwen2")
    first = make_request("1", list(prompt), cache_salt="team-a")
    run_all(engine, [first])
    same, other = make_request("2", list(prompt), cache_salt="team-a"), make_request("3", list(prompt))
    run_all(engine, [same, other])
    assert (first.num_cached_tokens, same.num_cached_tokens, other.num_cached_tokens) == (0, 16, 0)
    assert first.output_token_ids == same.output_token_ids == other.output_token_ids


def test_prefix_cache_can_be_switched_off() -> None:
    prompt = make_prompt(random.Random(0), 20)
    engine = make_engine("qwen2", prefix_cache=False)
    for index in range(2):
        request = make_request(str(index), list(prompt))
        run_all(engine, [request])
        assert request.num_cached_tokens == 0


def hold(blocks: BlockManager, request: Request) -> bool:
    return blocks.allocate(request, blocks.match_prefix(request))


def test_leaves_are_evicted_before_their_prefix() -> None:
    blocks = BlockManager(6, BLOCK_SIZE)
    old = make_request("old", list(range(20)))
    assert hold(blocks, old)
    blocks.advance(old, 20)
    blocks.release(old)
    other = make_request("other", [99] * 12)
    assert hold(blocks, other)  # takes the free block and two of the five cached
    again = make_request("again", list(range(20)))
    assert len(blocks.match_prefix(again)) == 3
    assert not hold(blocks, again), "three blocks are held, three known, two more are needed"
    blocks.check_integrity([other])
    blocks.release(other)
    assert hold(blocks, again)
    blocks.check_integrity([again])


def test_choices_of_one_prompt_compute_it_once() -> None:
    engine = make_engine("qwen2", max_num_batched_tokens=256)
    prompt = make_prompt(random.Random(4), 50)
    choices = [
        make_request(str(i), list(prompt), choice_index=i, sampling=Sampling(seed=1, temperature=2.0)) for i in range(4)
    ]
    run_all(engine, choices)
    assert [choice.num_cached_tokens for choice in choices] == [0, 48, 48, 48]
    assert len({tuple(choice.output_token_ids) for choice in choices}) == 4


def test_one_user_cannot_starve_another() -> None:
    """Forty requests of one user are waiting; another user's first is next but one."""
    queue = WaitingQueue()
    for index in range(40):
        queue.push(make_request(f"many{index}", [1], user="many", arrival_s=index))
    queue.push(make_request("one", [1], user="one", arrival_s=99.0))
    order = []
    while (request := queue.peek()) is not None:
        queue.remove(request)
        queue.charge(request, 100)
        order.append(request.id)
    assert "one" in order[:2]


def test_one_users_full_batch_makes_room_for_anothers_first_request() -> None:
    engine = make_engine("qwen2", max_num_seqs=4)
    prompts = random.Random(2)
    many = [
        make_request(f"m{i}", make_prompt(prompts, 6), user="many", max_tokens=60, eos_token_ids=frozenset())
        for i in range(16)
    ]
    for request in many:
        engine.add(request)
    for _ in range(5):
        step(engine)
    one = make_request("one", make_prompt(prompts, 6), user="one")
    engine.add(one)
    num_steps = 0
    while not one.output_token_ids:
        step(engine)
        num_steps += 1
    assert num_steps <= 2, "idle it would have taken one step"
    run_all(engine, [])
    alone = {request.id: make_request(request.id, list(request.prompt_token_ids)) for request in (one, *many)}
    for request in (one, *many):
        again = alone[request.id]
        again.max_tokens, again.eos_token_ids = request.max_tokens, request.eos_token_ids
        run_all(engine, [again])
        assert again.output_token_ids == request.output_token_ids
    assert sum(request.num_preemptions for request in many) <= 3, "who made room once is not sent away again and again"


def test_users_with_full_queues_are_served_equally_and_by_weight() -> None:
    engine = make_engine("qwen2", max_num_seqs=6)
    prompts, weights = random.Random(3), {"a": 1.0, "b": 1.0, "c": 2.0}
    served: Counter[str] = Counter()
    for index in range(40):
        for user, weight in weights.items():
            options = {"max_tokens": prompts.randrange(5, 40), "eos_token_ids": frozenset(), "weight": weight}
            engine.add(make_request(f"{user}{index}", make_prompt(prompts, 8), user=user, arrival_s=0.0, **options))
    for _ in range(150):
        served.update(output.request.user for output in step(engine) if output.token_id is not None)
    assert served["a"] == pytest.approx(served["b"], rel=0.1)
    assert served["c"] == pytest.approx(2 * served["a"], rel=0.15)


def test_batch_work_fills_idle_seats_only() -> None:
    engine = make_engine("qwen2", max_num_seqs=4)
    prompts = random.Random(5)
    batch = [
        make_request(f"b{i}", make_prompt(prompts, 6), priority=10, max_tokens=40, eos_token_ids=frozenset())
        for i in range(6)
    ]
    for request in batch:
        engine.add(request)
    step(engine)
    assert sum(bool(request.output_token_ids) for request in batch) == 4
    chats = [make_request(f"c{i}", make_prompt(prompts, 6), eos_token_ids=frozenset()) for i in range(4)]
    for request in chats:
        engine.add(request)
    for _ in chats:  # room is made for one a step
        step(engine)
    assert all(request.output_token_ids for request in chats)
    run_all(engine, [])
    assert [len(request.output_token_ids) for request in batch] == [40] * 6


def test_weights_divide_service() -> None:
    queue = WaitingQueue()
    for index in range(60):
        queue.push(make_request(f"h{index}", [1], user="heavy", weight=3.0, arrival_s=index))
        queue.push(make_request(f"l{index}", [1], user="light", weight=1.0, arrival_s=index))
    served: Counter[str] = Counter()
    for _ in range(40):
        request = queue.peek()
        queue.remove(request)
        queue.charge(request, 10)
        served[request.user] += 1
    assert 29 <= served["heavy"] <= 31


def test_idle_time_earns_no_credit() -> None:
    queue = WaitingQueue()
    busy = make_request("busy", [1], user="busy")
    queue.push(busy)
    queue.remove(busy)
    queue.charge(busy, 1_000_000)
    queue.push(make_request("b", [1], user="busy", arrival_s=1.0))
    for index in range(3):
        queue.push(make_request(f"n{index}", [1], user="new", arrival_s=2.0 + index))
    order = []
    while (request := queue.peek()) is not None:
        queue.remove(request)
        queue.charge(request, 10)
        order.append(request.user)
    assert order.index("busy") <= 1


def test_priority_goes_before_fairness() -> None:
    queue = WaitingQueue()
    batch = make_request("batch", [1], priority=10, arrival_s=0.0)
    interactive = make_request("interactive", [1], priority=0, arrival_s=1.0)
    queue.push(batch)
    queue.push(interactive)
    assert queue.peek() is interactive
    assert (queue.estimate_position(interactive), queue.estimate_position(batch)) == (0, 1)


def test_estimated_position_lets_users_take_turns() -> None:
    queue = WaitingQueue()
    for index in range(10):
        queue.push(make_request(f"a{index}", [1], user="a", arrival_s=float(index)))
    late = make_request("b0", [1], user="b", arrival_s=50.0)
    queue.push(late)
    assert queue.estimate_position(late) == 1


def test_decodes_go_on_while_a_long_prompt_is_prefilled_in_chunks() -> None:
    engine = make_engine("qwen2", max_num_batched_tokens=8)
    talking = make_request("talking", [5, 6, 7], max_tokens=40, eos_token_ids=frozenset())
    engine.add(talking)
    step(engine)
    long = make_request("long", make_prompt(random.Random(1), 60))
    engine.add(long)
    num_steps = 0
    while not long.output_token_ids:
        before = len(talking.output_token_ids)
        step(engine)
        num_steps += 1
        assert len(talking.output_token_ids) == before + 1
    assert num_steps == 9  # 60 tokens in chunks of 8 less the one that decodes


def test_a_long_prompt_is_paced_while_others_decode_and_a_short_one_is_not() -> None:
    scheduler = Scheduler(BlockManager(400, BLOCK_SIZE), max_num_seqs=8, max_num_batched_tokens=512)
    talking = make_request("talking", [1, 2, 3])
    scheduler.waiting.push(talking)
    scheduler.complete(scheduler.schedule(pace=20))
    talking.output_token_ids.append(1)
    long, short = make_request("long", [4] * 600, user="b"), make_request("short", [5] * 200, user="c")
    for request in (long, short):
        scheduler.waiting.push(request)
    sizes = {chunk.request.id: chunk.num_tokens for chunk in scheduler.schedule(pace=20)}
    assert sizes == {"talking": 1, "long": 20, "short": 200}
    scheduler.remove(talking)
    scheduler.remove(short)
    assert [chunk.num_tokens for chunk in scheduler.schedule(pace=20)] == [512], "nobody decodes: nobody waits"
    scheduler.check_integrity()


def test_the_end_of_a_long_prompt_is_paced_too_but_not_what_the_cache_knows() -> None:
    scheduler = Scheduler(BlockManager(1000, BLOCK_SIZE), max_num_seqs=8, max_num_batched_tokens=512)
    first = make_request("first", [4] * 600)
    scheduler.waiting.push(first)
    scheduler.complete(scheduler.schedule())
    talking = make_request("talking", [1, 2, 3], user="b")
    scheduler.waiting.push(talking)
    scheduler.complete(scheduler.schedule())
    for request in (first, talking):
        request.output_token_ids.append(1)
    scheduler.waiting.push(late := make_request("late", [4] * 600 + [5] * 100, user="c"))
    scheduler.waiting.push(long := make_request("long", [6] * 300, user="d"))
    sizes = []
    while long.num_tokens > long.num_computed_tokens:
        chunks = scheduler.schedule(pace=50)
        sizes.append({chunk.request.id: chunk.num_tokens for chunk in chunks})
        scheduler.complete(chunks)
        for request in scheduler.running:
            if request.num_computed_tokens == request.num_tokens and request is not long:
                request.output_token_ids.append(1)
    assert [size.get("long") for size in sizes] == [50] * 6
    assert sizes[0]["late"] == 100
    assert late.num_cached_tokens == 600


def test_short_prompts_beside_decodes_get_more_where_more_wait_than_decode() -> None:
    scheduler = Scheduler(BlockManager(400, BLOCK_SIZE), max_num_seqs=8, max_num_batched_tokens=512)
    for number in range(3):
        scheduler.waiting.push(talking := make_request(f"talking{number}", [number] * 3))
        scheduler.complete(scheduler.schedule())
        talking.output_token_ids.append(1)
    for number in range(3):
        scheduler.waiting.push(make_request(f"short{number}", [10 + number] * 100, user="b"))
    assert [chunk.num_tokens for chunk in scheduler.schedule(pace=20)] == [1, 1, 1, 100, 100, 56]
    for request in [request for request in scheduler.running if request.user == "b"]:
        scheduler.remove(request)
    for number in range(5):
        scheduler.waiting.push(make_request(f"more{number}", [20 + number] * 100, user="c"))
    sizes = [chunk.num_tokens for chunk in scheduler.schedule(pace=20)]
    assert sum(sizes) - 3 == 256 * 5 // 3, "five may come in beside three"


def test_pace_follows_what_steps_cost() -> None:
    pace = PrefillPace()
    assert pace.num_tokens is None
    pace.learn(num_decodes=0, num_prompt_tokens=500, elapsed_s=0.5)  # a millisecond a token
    assert pace.num_tokens is None
    pace.learn(num_decodes=8, num_prompt_tokens=0, elapsed_s=0.1)
    assert pace.num_tokens == 150  # a step of 250 ms
    for _ in range(50):
        pace.learn(num_decodes=8, num_prompt_tokens=150, elapsed_s=0.1 + 0.3)  # beside decodes it costs two
    assert 74 <= (pace.num_tokens or 0) <= 76
    for _ in range(50):
        pace.learn(num_decodes=1, num_prompt_tokens=0, elapsed_s=0.001)
    assert pace.num_tokens == 16, "it goes on all the same"


def test_the_youngest_is_preempted_and_the_oldest_goes_on() -> None:
    engine = make_engine("qwen2", num_blocks=24)
    requests = [
        make_request(str(i), make_prompt(random.Random(i), 24), max_tokens=40, arrival_s=i, eos_token_ids=frozenset())
        for i in range(3)
    ]
    run_all(engine, requests)
    assert requests[0].num_preemptions == 0
    assert requests[2].num_preemptions > 0
    assert [len(request.output_token_ids) for request in requests] == [40, 40, 40]
