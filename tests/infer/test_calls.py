"""Calls in line: one batch a kind, others between its steps, and an end when nobody waits."""

import threading

import pytest

from yantai.base.pulse import pulse, pulsing
from yantai.core.initialise import build
from yantai.families.table import FAMILIES
from yantai.infer.calls import TOGETHER, Calls
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids, prepare
from yantai.infer.request import Request
from yantai.infer.settings import Generation
from yantai.training.network import model_config
from yantai.training.recipe import Pretrain


def doubled(items):
    return [2 * item for item in items]


def test_a_batch_is_of_one_kind_and_of_so_many():
    calls, seen = Calls(), []

    def other(items):
        seen.append(len(items))
        return items

    first = [calls.add(doubled, number) for number in range(TOGETHER + 3)]
    second = [calls.add(other, number) for number in range(2)]
    calls.answer_some(lambda: None)
    assert [call.done() for call in first] == [True] * TOGETHER + [False] * 3
    assert len(calls) == 5 and not seen
    calls.answer_some(lambda: None)
    calls.answer_some(lambda: None)
    assert seen == [2] and [call.result(0) for call in second] == [0, 1] and len(calls) == 0
    calls.answer_some(lambda: None)  # nothing is no work


def test_a_batch_that_nobody_waits_for_ends_at_its_next_step():
    calls, done = Calls(), []

    def long(items):
        for step in range(100):
            done.append(step)
            if step == 3:
                waiting[0].abandon()
            if step == 6:
                waiting[1].abandon()
            pulse()
        return items

    waiting = [calls.add(long, number) for number in range(2)]
    left = calls.add(long, 2)
    left.abandon()  # before it was begun
    calls.answer_some(lambda: None)
    assert done[-1] == 6 and left.cancelled() and all(call.done() for call in waiting)


def test_an_answer_too_few_is_the_askers_and_nobody_elses():
    calls = Calls()
    short = [calls.add(lambda items: items[1:], 1)]
    calls.answer_some(lambda: None)
    with pytest.raises(ValueError, match="shorter"):
        short[0].result(0)


def test_a_pulse_of_what_works_in_between_is_none():
    seen = []

    def between():
        seen.append("between")
        pulse()

    pulse()
    with pulsing(between):
        pulse()
        with pulsing(lambda: seen.append("inner")):
            pulse()
        pulse()
    pulse()
    assert seen == ["between", "inner", "between"]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_chat_goes_on_between_the_steps_of_a_long_call(beams):
    core = prepare(
        build(model_config(Pretrain(out="x", size="nano"), FAMILIES["llama"], 300), seed=1)
    )
    settings = Generation(max_new_tokens=30, num_beams=beams)
    begun, engine = threading.Event(), Engine(core, slots=2)
    order = []

    def write(items):
        begun.set()
        asked.wait(30)
        found = [generate_ids(core, [item], settings)[0] for item in items]
        order.append("call")
        return found

    asked = threading.Event()
    call = engine.call(write, [5, 6, 7])
    begun.wait(30)
    chat = Generation(max_new_tokens=10)
    request = engine.submit(Request([8, 9], chat, on_end=lambda reason: order.append("chat")))
    steps = engine.steps
    asked.set()
    expected = generate_ids(core, [[5, 6, 7]], settings)[0]
    assert call.result(60) == expected and order == ["chat", "call"]
    assert request.wait(1) == generate_ids(core, [[8, 9]], chat)[0][2:]
    assert engine.steps - steps >= 25  # whoever watches it sees that it makes progress
    engine.close()
