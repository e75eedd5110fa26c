"""F21, F22, F25, F26 in their long form: damaged model folders, one after the other."""

import os
import random
import shutil

import pytest

from yantai.base.errors import ModelFileError
from yantai.life import selftest_folders
from yantai.life.selftest_folders import damage, damage_folders, write_folders


@pytest.mark.slow
def test_damaged_folders_are_refused_or_work(tmp_path):
    seed = int(os.environ.get("YANTAI_SEED", "0"))
    figures = damage_folders(tmp_path, 150, seed=seed)
    assert figures.pop("failures") == []
    assert figures["damaged_folders"] == 150 == figures["refused"] + figures["opened"]
    assert figures["refused"] > 75


def test_a_process_that_dies_is_a_failure_with_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(selftest_folders, "PROGRAM", "yantai.no_such_program")
    failures = damage_folders(tmp_path, 2, seed=5)["failures"]
    assert [failure["repeat"][-6:] for failure in failures] == ["seed 5", "seed 6"]
    assert "ended with 1" in failures[0]["what"]


def test_damage_is_a_function_of_its_number(tmp_path):
    folders = write_folders(tmp_path)
    contents = []
    for number in (1, 1, 2):
        copied = tmp_path / f"damaged-{len(contents)}"
        shutil.copytree(folders[0], copied / "llama")
        damage(copied / "llama", random.Random(number))
        contents.append({path.name: path.read_bytes() for path in (copied / "llama").iterdir()})
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    ("error", "answer"),
    [(ValueError("no"), "ValueError: no"), (ModelFileError("E401", "here", "odd"), "refused")],
)
def test_only_our_own_errors_are_an_answer(error, answer, tmp_path, monkeypatch):
    def load(*_, **__):
        raise error

    monkeypatch.setattr("yantai.infer.opening.load", load)
    assert selftest_folders._answer_of(tmp_path) == answer
