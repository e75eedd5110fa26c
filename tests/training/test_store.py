"""The file format of checkpoints; what crashes and damage do to them is in tests/faults."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file

from yantai.training.store import MANIFEST, STATE, TENSORS, Store, problem_of, read_manifest

DTYPES = ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"]
arrays = hnp.arrays(
    dtype=st.sampled_from(DTYPES), shape=hnp.array_shapes(min_dims=0, min_side=0, max_side=5)
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def quiet(line):
    del line


@given(tensors=st.dictionaries(st.text(min_size=1, max_size=8), arrays, max_size=6))
@settings(deadline=None, max_examples=60)
def test_the_safetensors_library_reads_what_is_written(tmp_path_factory, tensors):
    tensors.pop("__metadata__", None)
    folder = Store(tmp_path_factory.mktemp("s"), "mine", say=quiet).save(3, tensors, {})
    read = load_file(folder / TENSORS)
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()
    assert problem_of(folder) is None


def test_a_view_that_is_not_contiguous_is_written_in_its_order(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    folder = Store(tmp_path, "mine", say=quiet).save(1, {"a": array}, {})
    assert np.array_equal(load_file(folder / TENSORS)["a"], array)


def test_torch_can_map_the_file_because_all_is_aligned(tmp_path):
    tensors = {"a": np.zeros(3, np.uint8), "b": np.ones(5), "c": np.ones(3, np.float32)}
    path = Store(tmp_path, "mine", say=quiet).save(1, tensors, {}) / TENSORS
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    for name, array in tensors.items():
        assert header[name]["data_offsets"][0] % array.itemsize == 0
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("b").tolist() == [1.0] * 5


def test_a_large_array_is_written_in_pieces_with_one_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr("yantai.training.store._CHUNK", 7)
    array = np.arange(100, dtype=np.float32)
    folder = Store(tmp_path, "mine", say=quiet).save(1, {"a": array}, {})
    assert np.array_equal(load_file(folder / TENSORS)["a"], array)
    raw = bytearray((folder / TENSORS).read_bytes())
    raw[-1] ^= 1
    (folder / TENSORS).write_bytes(raw)
    assert problem_of(folder).startswith(f"{folder / TENSORS}:a: its SHA-256")


def test_the_manifest_says_run_step_and_files(tmp_path):
    folder = Store(tmp_path, "mine", say=quiet).save(120, {"a": np.ones(2)}, {"step": 120})
    assert folder.name == "step-000120"
    assert names(folder) == [MANIFEST, STATE, TENSORS]
    checkpoint = read_manifest(folder)
    assert (checkpoint.step, checkpoint.run_id) == (120, "mine")
    assert checkpoint.state() == {"step": 120}
    for name in (TENSORS, STATE):
        assert checkpoint.files[name]["bytes"] == (folder / name).stat().st_size


def test_floats_of_the_state_come_back_with_the_same_bits(tmp_path):
    state = {"recent": [1 / 3, 1e-308, 0.1 + 0.2], "text": "烟台"}
    store = Store(tmp_path, "mine", say=quiet)
    store.save(1, {}, state)
    assert store.newest().state() == state


def test_saving_a_step_again_replaces_it(tmp_path):
    store = Store(tmp_path, "mine", say=quiet)
    for value in (1, 2):
        store.save(5, {"a": np.full(2, value)}, {"value": value})
    assert names(tmp_path) == ["step-000005"]
    assert store.newest().state() == {"value": 2}


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_are_kept(tmp_path, keep):
    store = Store(tmp_path, "mine", keep=keep, say=quiet)
    for step in range(1, 9):
        store.save(step, {}, {})
    assert [item.step for item in store.found()] == list(range(8, 8 - keep, -1))
    assert len(names(tmp_path)) == keep


def test_nothing_saved_is_nothing_found(tmp_path):
    store = Store(tmp_path / "none", "mine", say=quiet)
    assert store.newest() is None
    assert store.found() == []
    assert not (tmp_path / "none").exists()


def test_what_is_newer_than_the_run_is_not_deleted(tmp_path):
    """After an older checkpoint was chosen, the run comes to the newer one again by itself."""
    store = Store(tmp_path, "mine", keep=2, say=quiet)
    for step in (10, 20, 15):
        store.save(step, {}, {})
    assert [item.step for item in store.found()] == [20, 15]
