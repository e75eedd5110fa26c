"""Golden lists: a parameter that changes its name or shape breaks every file that there is.

`YANTAI_WRITE_NAMES=1 pytest tests/contract/test_names.py` writes them anew, for a change that is
meant.
"""

import json
import os
from pathlib import Path

import pytest

from yantai.core.initialise import build_meta
from yantai.families.folder import to_theirs
from yantai.families.table import FAMILIES
from yantai.training.network import model_config
from yantai.training.recipe import Pretrain

LISTS = Path(__file__).parent / "names"


def names_of(family):
    """Our names and theirs with their shapes, of a model of two layers."""
    recipe = Pretrain(out="x", size="nano", family=family.name, layers=2, dim=16)
    if family.in_transformers:
        recipe = recipe.model_copy(update={"heads": 2})
    model = build_meta(model_config(recipe, family, 40))
    ours = {name: shape_of(value) for name, value in model.named_parameters()}
    theirs = {}
    for row, index in family.rows(set(ours)):
        theirs |= row.write(dict(model.named_parameters()), index)
    constants = {row.theirs: row.value(model.config) for row in family.constants}
    named = {name: shape_of(value) for name, value in sorted((theirs | constants).items())}
    return {"ours": ours, "theirs": named}


def shape_of(tensor):
    return " x ".join(map(str, tensor.shape))


@pytest.mark.parametrize("name", FAMILIES)
def test_names_and_shapes_are_those_of_the_list(name):
    found, path = names_of(FAMILIES[name]), LISTS / f"{name}.json"
    if os.environ.get("YANTAI_WRITE_NAMES"):
        path.write_text(
            json.dumps(found, indent=1).replace("[\n   ", "[").replace("\n  ]", "]") + "\n"
        )
    assert found == json.loads(path.read_text())


def test_every_list_has_a_family():
    assert {path.stem for path in LISTS.glob("*.json")} == set(FAMILIES)


def test_a_real_model_has_just_these_names():
    from yantai.core.initialise import build

    family = FAMILIES["gpt2"]
    recipe = Pretrain(out="x", size="nano", family="gpt2", layers=2, dim=16, heads=2)
    written = to_theirs(build(model_config(recipe, family, 40)), family)
    found = {name: shape_of(value) for name, value in written.items()}
    assert found == names_of(family)["theirs"]
