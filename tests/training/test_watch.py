import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from yantai.base.errors import NumericsError
from yantai.data.batch import Batch
from yantai.training.watch import PATIENCE, WINDOW, YOUNG, SpikeWatch, first_bad, stop_on_nonfinite


def batch(*names):
    ids = torch.zeros(len(names), 2, dtype=torch.int64)
    return Batch(ids, ids, ids, ids, True, 2 * len(names), names)


@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    value=st.sampled_from([math.nan, math.inf, -math.inf]),
    data=st.data(),
)
def test_the_first_bad_number_is_found(shape, value, data):
    tensor = torch.zeros(shape)
    places = st.tuples(*(st.integers(0, size - 1) for size in shape))
    planted = data.draw(st.lists(places, min_size=1, max_size=3))
    for place in planted:
        tensor[place] = value
    name, index, found = first_bad([("fine", torch.ones(2)), ("bad", tensor), ("later", tensor)])
    assert (name, tuple(index)) == ("bad", min(planted))
    assert found == value or (math.isnan(found) and math.isnan(value))


def test_integers_and_empty_tensors_are_finite():
    assert first_bad([("a", torch.arange(3)), ("b", torch.zeros(0))]) is None


def test_finite_numbers_pass():
    assert stop_on_nonfinite(1, 1.0, 1e30, nn.Linear(2, 2), []) is None
    with pytest.raises(NumericsError):  # the same but for the loss
        stop_on_nonfinite(1, math.inf, 1e30, nn.Linear(2, 2), [])


def test_the_error_names_step_rank_tensor_index_and_rows():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight[2, 1] = math.inf
    with pytest.raises(NumericsError) as caught:
        stop_on_nonfinite(9, math.nan, 1.0, model, [batch("a", "b", "c"), batch("d")], rank=1)
    assert str(caught.value) == (
        "step 9, rank 1, weight weight[2, 1]: not finite, nothing was updated; "
        "got inf (loss nan, gradient norm 1.0; rows: a; b; d); "
        "resume with a lower --rate, or look at the rows"
    )


def test_gradients_are_named_after_weights_and_loss():
    model = nn.Linear(2, 3)
    model.bias.grad = torch.tensor([0.0, math.nan, 0.0])
    with pytest.raises(NumericsError, match=r"gradient bias\[1\]"):
        stop_on_nonfinite(9, 1.0, math.nan, model, [])
    with pytest.raises(NumericsError, match="step 9, rank 0, loss: "):
        stop_on_nonfinite(9, math.nan, math.nan, model, [])
    model.bias.grad.zero_()
    with pytest.raises(NumericsError, match="gradient norm: "):
        stop_on_nonfinite(9, 1.0, math.inf, model, [])


def fed(losses, sigmas=6.0):
    watch = SpikeWatch(sigmas=sigmas)
    return watch, [watch.is_spike(loss, step) for step, loss in enumerate(losses)]


def test_a_jump_is_seen_once_enough_is_known():
    assert fed([1.0] * YOUNG + [1.05])[1][-1] is False
    assert fed([1.0] * YOUNG + [1.07])[1][-1] is True  # over 6 times 1 % of the mean
    assert fed([1.0] * (YOUNG - 1) + [99.0])[1][-1] is False


def test_the_deviation_counts():
    noisy = [1.0, 2.0] * YOUNG  # deviation 0.5
    assert fed([*noisy, 4.4])[1][-1] is False
    assert fed([*noisy, 4.6])[1][-1] is True
    assert fed([*noisy, 2.6], sigmas=2.0)[1][-1] is True


def test_a_jump_is_not_remembered_and_memory_is_bounded():
    watch, judged = fed([1.0] * 100 + [50.0])
    assert judged[-1]
    assert watch.recent == [1.0] * WINDOW


def test_falling_losses_are_no_jumps():
    assert not any(fed([10.0 * 0.9**step for step in range(200)])[1])


def test_a_new_level_is_accepted_after_patience():
    watch = SpikeWatch()
    for step in range(200):
        loss = 1.0 if step < 50 else 3.0
        if watch.is_spike(loss, step):
            watch.leave_out(step)
    assert watch.passed == list(range(50, 50 + PATIENCE))
    assert set(watch.recent) == {3.0}


@given(
    losses=st.lists(st.floats(0.1, 10.0), min_size=20, max_size=120),
    cut=st.integers(0, 119),
)
def test_decisions_are_the_same_after_a_resume(losses, cut):
    def judge(watch, steps):
        for step in steps:
            if step not in watch.passed and watch.is_spike(losses[step], step):
                watch.leave_out(step)

    whole = SpikeWatch(sigmas=1.0)
    cut = min(cut, len(losses))
    judge(whole, range(cut))
    resumed = SpikeWatch(sigmas=1.0)
    resumed.load(whole.state())
    judge(whole, range(cut, len(losses)))
    judge(resumed, range(cut, len(losses)))
    assert resumed.state() == whole.state()


def test_a_rewind_leaves_out_what_led_to_the_jump():
    watch = SpikeWatch()
    watch.leave_out(7)
    watch.leave_out(33, since=30)
    assert watch.jumps == [7, 33]
    assert watch.passed == [7, 30, 31, 32, 33]
    older = SpikeWatch()
    older.leave_out(7)
    watch.load(older.state())  # the checkpoint gone back to knew only the first
    assert watch.jumps == [7, 33]
    assert watch.passed == [7, 30, 31, 32, 33]
