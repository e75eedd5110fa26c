"""Damaged and hostile weight files: each is one error that says where, before a tensor is read."""

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save, save_file

from yantai.base.errors import ModelFileError, StorageError
from yantai.families.weights import INDEX, SINGLE, check_header, read_tensors, write_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([True, False]),
    "c": torch.zeros(0, 4, dtype=torch.bfloat16),
    "d": torch.tensor(7, dtype=torch.int64),
}


def header_and_rest(content=None):
    content = content or save(TENSORS)
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def packed(header, rest):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


ONE = bytes(24)
HOSTILE = {
    "empty file": b"",
    "half a length": b"\x08\x00",
    "length 0": bytes(8) + b"{}",
    "length 2^63": (2**63).to_bytes(8, "little") + b"{}",
    "length above the file": (100).to_bytes(8, "little") + b"{}",
    "length of 100 MB and more": (200_000_000).to_bytes(8, "little") + b"{}",
    "not JSON": packed(b"{nonsense", b""),
    "not UTF-8": packed(b'{"\xff\xfe": 1}', b""),
    "a list": packed(b"[1, 2]", b""),
    "deep JSON": packed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "a key twice": packed(
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        b' "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4),
    ),
    "an entry that is a number": packed({"a": 3}, ONE),
    "no dtype": packed({"a": {"shape": [2, 3], "data_offsets": [0, 24]}}, ONE),
    "a further field": packed({"a": entry() | {"more": 1}}, ONE),
    "unknown type": packed({"a": entry("F12")}, ONE),
    "a type that is a list": packed({"a": entry(["F32"])}, ONE),
    "negative extent": packed({"a": entry(shape=(-2, -3))}, ONE),
    "extent that is a float": packed({"a": entry(shape=(2.0, 3))}, ONE),
    "extent that is true": packed({"a": entry(shape=(True, 6))}, ONE),
    "huge shape": packed({"a": entry(shape=(2**62, 2**62))}, ONE),
    "many dimensions": packed({"a": entry(shape=(1,) * 1000)}, ONE),
    "shape that does not fit": packed({"a": entry(shape=(2, 4))}, ONE),
    "offsets backwards": packed({"a": entry(offsets=(24, 0))}, ONE),
    "offsets beyond": packed({"a": entry(offsets=(0, 2**63))}, ONE),
    "one offset": packed({"a": entry(offsets=(0,))}, ONE),
    "a hole": packed({"a": entry(offsets=(8, 32))}, bytes(32)),
    "overlap": packed({"a": entry(), "b": entry(offsets=(12, 36))}, bytes(36)),
    "bytes behind": packed({"a": entry()}, bytes(30)),
    "bytes missing": packed({"a": entry()}, bytes(20)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_hold_together_is_refused_with_its_place(name, tmp_path):
    path = tmp_path / SINGLE
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ModelFileError) as caught:
        read_tensors(tmp_path)
    assert caught.value.code == "E404"
    assert str(path) in str(caught.value)
    unknown = "a type that is not supported" in str(caught.value)
    assert str(caught.value).endswith("float16" if unknown else "fetch it again")


def test_a_folder_without_weights_says_what_to_do(tmp_path):
    with pytest.raises(ModelFileError, match="missing; fetch the whole folder") as caught:
        read_tensors(tmp_path)
    assert caught.value.code == "E403"


def test_what_is_written_is_read_and_as_readable_as_its_configuration(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_config.json").chmod(0o640)
    write_tensors(tmp_path / SINGLE, TENSORS | {"turned": TENSORS["a.weight"].T})
    assert (tmp_path / SINGLE).stat().st_mode & 0o777 == 0o640
    found = read_tensors(tmp_path)
    assert torch.equal(found["turned"], TENSORS["a.weight"].T)


def test_a_disk_without_room_is_told_how_much_is_needed(tmp_path, monkeypatch):
    def full(tensors, path, **facts):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("yantai.families.weights.save_file", full)
    with pytest.raises(StorageError, match=r"no space \(ENOSPC\); expected 34 bytes, got") as told:
        write_tensors(tmp_path / SINGLE, TENSORS)
    assert told.value.code == "E502"
    assert list(tmp_path.iterdir()) == []


def test_a_whole_file_is_read(tmp_path):
    save_file(TENSORS, tmp_path / SINGLE, metadata={"format": "pt"})
    assert sorted(check_header(tmp_path / SINGLE)) == sorted(TENSORS)
    found = read_tensors(tmp_path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_change_of_bytes_is_more_than_an_error_or_other_numbers(data, tmp_path_factory):
    """Whatever is accepted is also what the reference library reads."""
    content = bytearray(save(TENSORS))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("mutated")
    (folder / SINGLE).write_bytes(bytes(content))
    try:
        found = read_tensors(folder)
    except ModelFileError:
        return
    expected = load(bytes(content))
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in found)


@given(cut=st.integers(0, len(save(TENSORS)) - 1))
@settings(max_examples=60, deadline=None)
def test_a_file_that_ends_early_is_refused(cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    (folder / SINGLE).write_bytes(save(TENSORS)[:cut])
    with pytest.raises(ModelFileError, match="safetensors"):
        read_tensors(folder)


def shards(folder, weight_map=None, **files):
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    default = {key: f"{name}.safetensors" for name, tensors in files.items() for key in tensors}
    table = default if weight_map is None else weight_map
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))


def test_shards_are_read_together(tmp_path):
    shards(tmp_path, one={"a": torch.ones(2)}, two={"b": torch.zeros(3), "c": torch.ones(1)})
    assert sorted(read_tensors(tmp_path)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "place",
    [
        "../one.safetensors", "/etc/passwd", "/tmp/one.safetensors", "sub/one.safetensors",
        "..\\one.safetensors", "one.safetensors\0", "one.bin", "", ".", "..", 7, None, ["one"],
    ],
)  # fmt: skip
def test_an_index_names_files_of_its_own_folder_and_nothing_else(place, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    shards(folder, {"a": place}, one={"a": torch.ones(2)})
    with pytest.raises(ModelFileError) as caught:
        read_tensors(folder)
    assert "weight_map.a" in str(caught.value)


def test_a_link_that_leads_out_is_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "outside.safetensors")
    shards(folder, {"a": "one.safetensors"})
    (folder / "one.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(ModelFileError, match="leads out"):
        read_tensors(folder)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path):
    blobs, folder = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    save_file({"a": torch.ones(2)}, blobs / "c0ffee")
    (folder / SINGLE).symlink_to("../../blobs/c0ffee")
    assert torch.equal(read_tensors(folder)["a"], torch.ones(2))


def test_a_device_is_no_shard(tmp_path):
    shards(tmp_path, {"a": "one.safetensors"})
    (tmp_path / "one.safetensors").symlink_to("/dev/zero")
    with pytest.raises(ModelFileError):
        read_tensors(tmp_path)
    (tmp_path / "one.safetensors").unlink()
    os.mkfifo(tmp_path / "one.safetensors")
    with pytest.raises(ModelFileError, match="missing"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            {"a": "one.safetensors", "b": "two.safetensors"},
            r"two\.safetensors: the file is missing",
        ),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "missing tensor 'b'"),
        ({}, "weight_map"),
    ],
)
def test_an_index_and_its_files_must_agree(table, said, tmp_path):
    shards(tmp_path, table, one={"a": torch.ones(2)})
    with pytest.raises(ModelFileError, match=said):
        read_tensors(tmp_path)


def test_a_tensor_beside_the_index_is_named(tmp_path):
    shards(tmp_path, {"a": "one.safetensors"}, one={"a": torch.ones(2), "x": torch.ones(1)})
    with pytest.raises(ModelFileError, match="extra tensor 'x'"):
        read_tensors(tmp_path)
