"""A step is tried before it is used; the one of the CPU stands here for that of a GPU."""

import pytest
import torch
from decoders import CONFIGS, model_of, packed_of

from yantai.adapt.packed import Form
from yantai.base.native.build import find_compiler
from yantai.infer.cuda import step as cuda
from yantai.infer.cuda.trial import FAR, fault_of, kind_of
from yantai.infer.native.step import NativeStep, native_step

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "window", "no positions"])
def test_a_step_that_says_what_torch_says_has_no_fault(name, dtype):
    model = model_of(CONFIGS[name], dtype)
    assert fault_of(native_step(model), model) == ""


@pytest.mark.parametrize("what", ["head", "cache", "nan", "error"])
def test_one_that_says_something_else_has(what, monkeypatch):
    model = model_of({"tied": False})
    step, whole = native_step(model), NativeStep._run
    if what == "head":  # weights of another model
        other = model_of({"tied": False}, seed=1)
        step = native_step(other)

    def spoilt(self, ids, cache, *rest, **more):
        logits = whole(self, ids, cache, *rest, **more)
        if what == "cache":  # right logits, but nothing was written
            cache.store.zero_()
        if what == "nan":
            logits[-1, -1] = torch.nan
        if what == "error":
            raise RuntimeError("no such instruction\nand more")
        return logits

    if what != "head":
        monkeypatch.setattr(NativeStep, "_run", spoilt)
    found = fault_of(step, model)
    if what == "error":
        assert found == "RuntimeError: no such instruction"
    else:
        assert "off by a share" in found


def test_a_kind_is_tried_once_and_who_failed_is_not_asked_again(monkeypatch, capsys):
    model, tries = model_of({}), []
    monkeypatch.setattr(cuda, "_FAULTS", {})
    monkeypatch.setattr(cuda, "fault_of", lambda *_: tries.append(1) or "all wrong")
    assert [cuda.tried(native_step, model) for _ in range(2)] == [None, None]
    assert len(tries) == 1
    assert capsys.readouterr().err.count("torch decodes") == 1
    monkeypatch.setattr(cuda, "fault_of", lambda *_: "")
    other = model_of({"window": 7})
    assert isinstance(cuda.tried(native_step, other), NativeStep)
    assert isinstance(cuda.tried(native_step, other), NativeStep)


def test_kinds_differ_by_what_decides_the_kernels():
    kinds = [
        kind_of(each)
        for each in (
            model_of({}), model_of({}, torch.bfloat16), model_of({"window": 3}),
            packed_of({}, Form(8, 32)), packed_of({}, Form(4, 32)),
        )
    ]  # fmt: skip
    assert len(set(kinds)) == len(kinds)
    assert kind_of(model_of({}, seed=3)) == kinds[0]
    assert set(FAR) == {torch.float32, torch.bfloat16}
