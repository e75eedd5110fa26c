"""What is kept of earlier prompts: found as a search through all of them finds it."""

import numpy as np
import pytest
import torch

from yantai.infer.prefixes import SHORTEST, Prefixes


def values_of(ids):
    """Of as many tokens, told apart by the last of them."""
    return torch.tensor(ids, dtype=torch.float32).expand(2, 2, 1, -1)[..., None]


def longest(known, ids):
    """Tokens that `ids` has in common with the beginning of any."""
    best = 0
    for each in known:
        shared = min(len(each), len(ids))
        differ = np.flatnonzero(np.array(each[:shared]) != np.array(ids[:shared]))
        best = max(best, int(differ[0]) if len(differ) else shared)
    return best if best >= SHORTEST else 0


@pytest.mark.parametrize("seed", range(4))
def test_the_longest_beginning_is_found_among_many(seed):
    dice = np.random.default_rng(seed)
    prefixes, known = Prefixes(1 << 30), []
    common = dice.integers(0, 3, 20).tolist()  # as a system prompt is
    found = 0
    for _ in range(300):
        start = common if dice.random() < 0.7 else [70_000, 2] * 8
        ids = start + dice.integers(0, 2, dice.integers(0, 12)).tolist()
        count, values = prefixes.find(ids)
        assert count == longest(known, ids)
        found += count > 0
        if count:
            assert values[0, 0, 0, :count, 0].tolist() == ids[:count]
        prefixes.keep(ids, values_of(ids))
        known.append(ids)
    assert found > 200
    held = [values[0, 0, 0, :, 0].tolist() for values in prefixes._values.values()]
    assert len(held) == len(prefixes) < 300
    assert not any(b[: len(a)] == a for a in held for b in held if a is not b)
    assert prefixes.bytes == sum(16 * len(each) for each in held)


def test_what_was_not_used_for_longest_goes():
    rows = [[number] * SHORTEST for number in range(4)]
    size = values_of(rows[0]).numel() * 4
    prefixes = Prefixes(3 * size)
    for ids in rows[:3]:
        prefixes.keep(ids, values_of(ids))
    assert prefixes.find([*rows[0], 9])[0] == SHORTEST  # used again
    prefixes.keep(rows[3], values_of(rows[3]))
    assert [prefixes.find(ids)[0] for ids in rows] == [SHORTEST, 0, SHORTEST, SHORTEST]
    assert prefixes.bytes == 3 * size


def test_too_short_or_too_large_is_not_kept():
    prefixes = Prefixes(100)
    prefixes.keep([1] * (SHORTEST - 1), values_of([1]))
    prefixes.keep([1] * SHORTEST, values_of([1] * SHORTEST))
    assert len(prefixes) == prefixes.bytes == 0 and prefixes.find([1] * 99) == (0, None)


def test_values_are_a_copy():
    store = values_of([5] * SHORTEST).clone()
    prefixes = Prefixes(1 << 20)
    prefixes.keep([5] * SHORTEST, store)
    store.zero_()
    assert prefixes.find([5] * SHORTEST)[1].min() == 5


def test_a_shorter_one_is_held_by_the_longer():
    longer = list(range(SHORTEST + 8))
    prefixes = Prefixes(1 << 20)
    prefixes.keep(longer, values_of(longer))
    prefixes.keep(longer[:SHORTEST], values_of(longer[:SHORTEST]))
    assert len(prefixes) == 1 and prefixes.find(longer)[0] == len(longer)
