"""Many at once = one by one; requests come, go and fail without touching the others."""

import functools
import threading

import pytest
import torch
from test_language_model import DECODERS

from yantai.base.errors import ResourceError, UsageError
from yantai.core.config import ModelConfig, RotaryScaling
from yantai.core.initialise import build
from yantai.families.table import FAMILIES
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids, prepare
from yantai.infer.request import Request
from yantai.infer.settings import Generation
from yantai.training.network import model_config
from yantai.training.recipe import Pretrain

VOCAB = 90
SAMPLED = {"temperature": 0.9, "top_k": 20, "repetition_penalty": 1.2}


def shaken(core, scale=0.3):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in core.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise.to(parameter.dtype) * scale)
    return prepare(core)


def small(dtype=torch.float32, **changes):
    config = ModelConfig(**{
        "vocab_size": VOCAB, "dim": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16,
        "hidden": 48, "max_positions": 1024,
    } | changes)  # fmt: skip
    return shaken(build(config, seed=1, table="gpt2", dtype=dtype))


@pytest.fixture(scope="module", params=["float32", "float64"])
def model(request):
    """Compiled where there is a compiler; in float64 by torch."""
    return small(getattr(torch, request.param))


def prompts(count, most=60):
    dice = torch.Generator().manual_seed(3)
    sizes = torch.randint(1, most, (count,), generator=dice).tolist()
    return [torch.randint(VOCAB, (size,), generator=dice).tolist() for size in sizes]


@pytest.fixture
def engine(model):
    made = Engine(model, slots=5)
    yield made
    made.close()


def settings_of(number):
    drawn = {**SAMPLED, "seed": number} if number % 3 == 2 else {}
    return Generation(max_new_tokens=5 + 7 * (number % 6), **drawn)


def test_many_at_once_say_what_each_says_alone(model, engine):
    asked = prompts(32)
    requests = [
        engine.submit(Request(ids, settings_of(number), frozenset({1})))
        for number, ids in enumerate(asked)
    ]
    found = [request.wait(60) for request in requests]
    for number, (ids, new) in enumerate(zip(asked, found, strict=True)):
        alone = generate_ids(model, [ids], settings_of(number), frozenset({1}))[0]
        assert new == alone[len(ids) :], number
    assert engine.active == 0 and engine.waiting == 0
    ends = {request.reason for request in requests}
    assert ends <= {"stop", "length"} and "length" in ends


@pytest.mark.parametrize("name", DECODERS)
def test_every_family_is_served(name):
    recipe = Pretrain(out="x", size="nano", family=name)
    family = FAMILIES[name]
    table = "gpt2" if family.in_transformers else family.initial
    core = shaken(build(model_config(recipe, family, VOCAB + 200), table=table, seed=2), 0.1)
    engine = Engine(core, slots=3)
    settings = Generation(max_new_tokens=12)
    asked = prompts(5, 30)
    requests = [engine.submit(Request(ids, settings)) for ids in asked]
    for ids, request in zip(asked, requests, strict=True):
        assert request.wait(60) == generate_ids(core, [ids], settings)[0][len(ids) :]
    engine.close()


def test_a_long_prompt_joins_while_others_are_at_it(model, engine):
    """Rows are moved to end together, the cache grows, and nobody says anything else."""
    settings = Generation(max_new_tokens=300)
    asked = [[5, 6, 7], prompts(1, 2)[0] * 600, [8] * 20, [3] * 250]
    requests = [engine.submit(Request(ids, settings)) for ids in asked]
    for ids, request in zip(asked, requests, strict=True):
        assert request.wait(60) == generate_ids(model, [ids], settings)[0][len(ids) :]


def test_short_prompts_are_read_side_by_side_in_one_step(model):
    """Or those that come together would end one after the other."""
    made = Engine(model, slots=8)
    try:
        before = made.steps
        requests = [Request([number + 2] * 5, Generation(max_new_tokens=10)) for number in range(8)]
        made.submit_all(requests)
        found = [request.wait(60) for request in requests]
        assert made.steps - before <= 11
    finally:
        made.close()
    for number, new in enumerate(found):
        alone = generate_ids(model, [[number + 2] * 5], Generation(max_new_tokens=10))[0]
        assert new == alone[5:]


@pytest.mark.parametrize("busy", [False, True])
def test_a_short_prompt_does_not_wait_for_a_long_one(model, engine, busy):
    dice, told = torch.Generator().manual_seed(5), []
    sizes = {"long": 990, "short": 40, "middle": 300, "another": 980}
    if busy:
        engine.submit(Request([7] * 9, Generation(max_new_tokens=900)))
    requests = {}
    for name, size in sizes.items():
        ids = torch.randint(VOCAB, (size,), generator=dice).tolist()
        note = functools.partial(lambda name, *_: told.append(name), name)
        requests[name] = Request(ids, Generation(max_new_tokens=3), on_token=note)
    engine.submit_all(list(requests.values()))
    for request in requests.values():
        new = request.wait(60)
        assert new == generate_ids(model, [request.ids], request.settings)[0][-3:]
    firsts = sorted(sizes, key=told.index)
    assert firsts.index("short") < firsts.index("middle") < firsts.index("long")
    assert firsts[-1] == "another"  # as long as the first, it waits


def test_texts_of_one_long_prompt_share_what_was_read(engine):
    ids = [3 * number % VOCAB for number in range(900)]
    requests = [Request(ids, Generation(max_new_tokens=2), number=number) for number in range(3)]
    engine.submit_all(requests)
    assert [request.wait(60) and request.reused for request in requests] == [0, 899, 899]


def test_a_long_prompt_that_is_cancelled_beside_a_short_one_ends(engine):
    gone = Request([5] * 1000, Generation(max_new_tokens=2))
    stays = Request([6] * 30, Generation(max_new_tokens=2), on_token=lambda *_: gone.cancel())
    engine.submit_all([gone, stays])
    assert len(stays.wait(60)) == 2
    gone.wait(60)
    assert gone.reason == "cancelled" and not engine._readings.open


def test_what_was_read_before_is_not_read_again(model, engine):
    settings = Generation(max_new_tokens=8)
    first = engine.submit(Request([*range(2, 60)], settings))
    said = first.wait(60)
    again = engine.submit(Request([*range(2, 60)], settings))
    assert again.wait(60) == said
    assert (first.reused, again.reused) == (0, 57)
    further = [*range(2, 60), *said, 4, 4]
    third = engine.submit(Request(further, settings))
    assert third.wait(60) == generate_ids(model, [further], settings)[0][len(further) :]
    assert third.reused == 58 + len(said) - 1


def test_a_cancelled_request_makes_room(model, engine):
    begun, ended = threading.Event(), []
    long = Request(
        [3, 4], Generation(max_new_tokens=900), on_token=lambda *_: begun.set(),
        on_end=ended.append,
    )  # fmt: skip
    engine.submit(long)
    assert begun.wait(30)
    others = [engine.submit(Request([9], Generation(max_new_tokens=20))) for _ in range(3)]
    long.cancel()
    said = long.wait(30)
    assert ended == ["cancelled"] and 0 < len(said) < 900
    alone = generate_ids(model, [[9]], Generation(max_new_tokens=20))[0][1:]
    assert [request.wait(30) for request in others] == [alone] * 3


def test_whoever_listens_may_end_it(engine):
    heard = []

    def listen(token, logits):
        heard.append((token, int(logits.argmax())))
        return len(heard) == 4

    request = engine.submit(Request([3], Generation(max_new_tokens=50), on_token=listen))
    assert request.wait(30) == [token for token, _ in heard] and len(heard) == 4
    assert all(token == best for token, best in heard)
    assert request.reason == "stop"


def test_a_listener_that_fails_ends_its_own_request_alone(model, engine, capsys):
    def fail(token, logits):
        raise RuntimeError("planted")

    settings = Generation(max_new_tokens=5)
    good = engine.submit(Request([3], settings))
    bad = engine.submit(Request([3], settings, on_token=fail))
    with pytest.raises(ResourceError, match="failed while it answered"):
        bad.wait(30)
    assert str(bad.error) == "planted"
    assert capsys.readouterr().err.count("RuntimeError: planted") == 1
    assert good.wait(30) == generate_ids(model, [[3]], settings)[0][1:]


def test_after_the_model_has_failed_the_next_request_is_served(model, engine, capsys, monkeypatch):
    def fail(ids):
        raise RuntimeError("planted")

    settings = Generation(max_new_tokens=5)
    monkeypatch.setattr(engine._slots, "step", fail)
    bad = engine.submit(Request([3], settings))
    with pytest.raises(ResourceError, match="failed while it answered"):
        bad.wait(30)
    assert "planted" in capsys.readouterr().err
    good = engine.submit(Request([3], settings))
    assert good.wait(30) == generate_ids(model, [[3]], settings)[0][1:]


def test_a_line_has_an_end(model):
    engine = Engine(model, slots=1, waiting=2)
    begun = threading.Event()
    held = threading.Event()

    def hold(token, logits):
        begun.set()
        held.wait(30)

    first = engine.submit(Request([3], Generation(max_new_tokens=2), on_token=hold))
    assert begun.wait(30)
    more = [engine.submit(Request([3], Generation(max_new_tokens=2))) for _ in range(2)]
    with pytest.raises(ResourceError, match="too many wait"):
        engine.submit(Request([3], Generation(max_new_tokens=2)))
    held.set()
    assert all(request.wait(30) for request in [first, *more])
    engine.close()
    with pytest.raises(ResourceError, match="is closed"):
        engine.submit(Request([3], Generation(max_new_tokens=2)))


def test_places_are_counted_whether_or_not_they_were_taken_yet(model):
    """A slow processor has begun none of them when the next one comes."""
    engine = Engine(model, slots=2, waiting=1)
    gate = threading.Event()
    engine.call(lambda items: [gate.wait(30) for _ in items], 0)
    settings = Generation(max_new_tokens=2)
    accepted = [engine.submit(Request([3], settings)) for _ in range(3)]
    with pytest.raises(ResourceError, match="too many wait"):
        engine.submit(Request([3], settings))
    gate.set()
    assert all(request.wait(30) for request in accepted)
    again = [Request([3], settings) for _ in range(3)]
    engine.submit_all(again)
    with pytest.raises(ResourceError, match="too many wait"):
        engine.submit_all([Request([3], settings) for _ in range(4)])
    assert all(request.wait(30) for request in again)
    engine.close()


def test_who_cannot_be_told_takes_no_place(model):
    engine = Engine(model, slots=1, waiting=0)
    request = Request([3], Generation(max_new_tokens=2))

    def deaf():
        raise BrokenPipeError

    for _ in range(3):
        with pytest.raises(BrokenPipeError):
            engine.submit_all([request], deaf)
    assert engine.submit(Request([3], Generation(max_new_tokens=2))).wait(30)
    engine.close()


def test_one_for_whom_there_is_no_room_fails_alone(model, monkeypatch, capsys):
    engine = Engine(model, slots=1, waiting=0)
    settings = Generation(max_new_tokens=2)

    def full(*sizes, **options):
        raise RuntimeError("planted: no memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_begun", full)
        with pytest.raises(ResourceError, match="failed while it answered"):
            engine.submit(Request([3], settings)).wait(30)
    assert "no memory" in capsys.readouterr().err
    assert engine.submit(Request([3], settings)).wait(30)
    engine.close()


def test_one_that_cannot_join_is_told_so(model, monkeypatch, capsys):
    engine = Engine(model, slots=2, waiting=0)

    def full(read):
        raise RuntimeError("no memory")

    try:
        monkeypatch.setattr(engine._slots, "join", full)
        request = engine.submit(Request([5] * 9, Generation(max_new_tokens=4)))
        with pytest.raises(ResourceError):
            request.wait(30)
        again = [Request([6] * 9, Generation(max_new_tokens=4)) for _ in range(2)]
        engine.submit_all(again)  # both places are free
        assert [len(each.wait(30)) for each in again] == [4, 4]
    finally:
        engine.close()
    assert "no memory" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(engine):
    with pytest.raises(UsageError, match="do not fit"):
        engine.submit(Request([3] * 1000, Generation(max_new_tokens=50)))


def test_calls_of_one_kind_are_answered_together(engine):
    sizes, gate = [], threading.Event()

    def double(items):
        gate.wait(30)
        sizes.append(len(items))
        return [2 * item for item in items]

    def broken(items):
        raise ValueError("planted")

    futures = [engine.call(double, number) for number in range(9)]
    lost = engine.call(broken, 1)
    gate.set()
    assert [future.result(30) for future in futures] == [2 * number for number in range(9)]
    assert len(sizes) < 9
    with pytest.raises(ValueError, match="planted"):
        lost.result(30)


def test_angles_that_depend_on_the_length_are_those_of_one_request():
    scaling = RotaryScaling(kind="dynamic", factor=2.0, original_positions=16)
    core = small(rotary_scaling=scaling)
    engine = Engine(core, slots=4)
    settings = Generation(max_new_tokens=30)
    asked = prompts(4, 30)
    requests = [engine.submit(Request(ids, settings)) for ids in asked]
    for ids, request in zip(asked, requests, strict=True):
        assert request.wait(60) == generate_ids(core, [ids], settings)[0][len(ids) :]
    engine.close()


def test_tokens_come_one_by_one_and_leaving_cancels(model, engine):
    settings = Generation(max_new_tokens=40)
    ids = [5, 6, 7]
    expected = generate_ids(model, [ids], settings)[0][len(ids) :]
    assert list(engine.tokens(ids, settings)) == expected
    tokens = engine.tokens(ids, Generation(max_new_tokens=900))
    assert next(tokens) == expected[0]
    tokens.close()
    assert list(engine.tokens(ids, settings)) == expected  # there is room again
    assert engine.active == 0
