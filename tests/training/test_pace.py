import pytest

from yantai.training.pace import VALIDATIONS, mean_without_the_longest, seconds_left, validations_by


def test_one_long_step_does_not_count():
    assert mean_without_the_longest([1.0, 2.0, 50.0, 3.0]) == 2.0


def test_what_is_left_follows_a_machine_that_slows_down():
    """Another program has a core: three slow steps say more than forty quick ones."""
    quick, slow = [0.1] * 40, [4.0] * 3
    assert seconds_left(90, 100, quick, 0.0, 50) == pytest.approx(1.0)
    assert seconds_left(93, 100, quick + slow, 0.0, 50) == pytest.approx(28.0)
    assert seconds_left(96, 100, [*slow, *[0.1] * 200], 0.0, 50) == pytest.approx(0.4)


def test_validations_are_counted_that_are_still_to_come():
    assert seconds_left(8, 10, [2.0], 5.0, None) == pytest.approx(2 * 2.0 + 2 * 5.0)
    assert seconds_left(8, 10, [2.0], 5.0, 3) == pytest.approx(2 * 2.0 + 2 * 5.0)
    assert seconds_left(10, 10, [2.0], 5.0, None) == 0.0
    assert seconds_left(0, 10, [], 0.0, None) == 0.0


@pytest.mark.parametrize("every", [None, 1, 7, 20, 100])
def test_the_last_step_is_always_validated(every):
    for horizon in (1, 5, 20, 63):
        due = [validations_by(step, horizon, every) for step in range(horizon + 1)]
        assert due[0] == 0 and due[-1] > due[-2]
        assert due == sorted(due)
        if every is None:
            assert due[-1] == VALIDATIONS
        else:
            assert due[-1] == -(-horizon // every)
