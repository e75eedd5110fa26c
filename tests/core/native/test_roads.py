import torch

from yantai.core.native import roads
from yantai.core.native.roads import kernels

CPU = torch.device("cpu")


def test_wide_numbers_and_other_devices_take_torchs_parts():
    assert kernels(torch.float64, CPU) == "torch"
    assert kernels(torch.bfloat16, torch.device("meta")) == "torch"


def test_without_a_library_it_is_torch(monkeypatch):
    monkeypatch.setattr(roads, "library", lambda *_: None)
    assert kernels(torch.bfloat16, CPU) == "torch"


def test_the_name_tells_the_source_apart(monkeypatch):
    class Library:
        _name = "/somewhere/elementwise-0123456789abcdef.so"

    monkeypatch.setattr(roads, "library", lambda *_: Library)
    assert kernels(torch.bfloat16, CPU) == ", ".join(["elementwise-0123456789abcdef"] * 2)
