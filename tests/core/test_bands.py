"""Products by bands of rows: the same sums, in the type that the processor multiplies fast."""

import pytest
import torch
import torch.nn.functional as F

from yantai.core import bands
from yantai.core.bands import arithmetic, product_in_bands
from yantai.core.fused import product


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [1, 63, 64, 65, 200])
def test_bands_give_the_product_of_the_whole(outputs, bias, monkeypatch):
    monkeypatch.setattr(bands, "NUMBERS", 64 * 24)  # 64 rows of 24
    x, weight = torch.randn(2, 5, 24).double(), torch.randn(outputs, 24).double()
    added, asked = torch.randn(outputs).double() if bias else None, []

    def band(start, stop):
        asked.append((start, stop))
        return weight[start:stop]

    got = product_in_bands(x, band, outputs, added)
    torch.testing.assert_close(got, F.linear(x, weight, added))
    assert asked == [(at, min(at + 64, outputs)) for at in range(0, outputs, 64)]


def test_where_bfloat16_is_slow_it_is_multiplied_as_float32_and_rounded_once(monkeypatch):
    monkeypatch.setattr(bands, "has_fast_bfloat16", lambda device: False)
    x, weight = torch.randn(9, 40).bfloat16(), torch.randn(30, 40).bfloat16()
    added = torch.randn(30).bfloat16()
    with torch.inference_mode():
        got = product(x, weight, None, added)
        exact = F.linear(x.float(), weight.float(), added.float())
        assert got.dtype == torch.bfloat16 and torch.equal(got, exact.bfloat16())


def test_who_learns_who_is_wide_and_who_is_fast_is_left_alone(monkeypatch):
    slow = {"slow": False}
    monkeypatch.setattr(bands, "has_fast_bfloat16", lambda device: slow["slow"])
    narrow, wide = torch.zeros(8, 4, dtype=torch.bfloat16), torch.zeros(8, 4)
    assert arithmetic(narrow) == torch.bfloat16  # gradients may be asked for
    with torch.no_grad():
        assert arithmetic(narrow) == torch.float32 == arithmetic(wide)
        assert arithmetic(wide.double()) == torch.float64
        slow["slow"] = True
        assert arithmetic(narrow) == torch.bfloat16
