"""Every recipe of the house is one that the program takes."""

from pathlib import Path

import pytest
import torch

from yantai.base.config import build, read_yaml
from yantai.core.cost import count
from yantai.core.initialise import build_meta
from yantai.families.table import FAMILIES, family_named
from yantai.training.network import model_config
from yantai.training.recipe import HIDDEN_FLAGS, HIDDEN_IN_FINETUNE, Finetune, Pretrain
from yantai.training.setup import fill_in
from yantai.training.sizes import SIZES

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds_a_model(path):
    values = read_yaml(path)
    assert values.pop("verb") == "pretrain"
    recipe = fill_in(build(Pretrain, values, str(path)))
    config = model_config(recipe, family_named(recipe.family), recipe.vocab_size)
    assert count(build_meta(config), recipe.context).parameters > 500_000


# millions of parameters, embeddings included, as the papers print them (V 50,257)
PUBLISHED = {
    "gpt2": 124,
    "gpt2-medium": 355,
    "gpt2-large": 774,
    "gpt2-xl": 1558,
    "gpt3-small": 125,
    "gpt3-medium": 356,
    "gpt3-large": 760,
    "gpt3-xl": 1320,
    "gpt3-2.7b": 2650,
    "gpt3-6.7b": 6660,
    "gpt3-13b": 12850,
    "gpt3-175b": 174_600,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_have_the_published_parameters(name):
    recipe = fill_in(Pretrain(out=Path("x"), size=name, family="gpt2"))
    config = model_config(recipe, FAMILIES["gpt2"], 50_257)
    millions = count(build_meta(config), 1024).parameters / 1e6
    assert millions == pytest.approx(PUBLISHED[name], rel=0.02)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("size", ["nano", "micro", "tiny", "small", "medium", "base"])
def test_every_small_size_exists_in_every_family(size, family):
    recipe = fill_in(Pretrain(out=Path("x"), size=size, family=family))
    config = model_config(recipe, FAMILIES[family], 4096)
    assert config.layers == SIZES[size].layers
    assert FAMILIES[family].write_config(config)["model_type"] == family


@pytest.mark.parametrize(
    ("recipe", "hidden"), [(Pretrain, HIDDEN_FLAGS), (Finetune, HIDDEN_IN_FINETUNE)]
)
def test_hidden_flags_are_fields_and_few_are_visible(recipe, hidden):
    assert set(recipe.model_fields) >= hidden
    assert len(set(recipe.model_fields) - hidden) <= 25


def test_heads_may_be_wider_than_the_stream():
    recipe = fill_in(Pretrain(out=Path("x"), size="nano", heads=4, head_dim=64))
    config = model_config(recipe, FAMILIES["qwen3"], 4096)
    assert (config.dim, config.heads, config.kv_heads, config.head_dim) == (128, 4, 4, 64)
    assert FAMILIES["qwen3"].write_config(config)["head_dim"] == 64
    narrow = fill_in(Pretrain(out=Path("x"), size="nano", heads=4))
    assert model_config(narrow, FAMILIES["qwen3"], 4096).head_dim == 32


def test_the_type_of_the_arithmetic_is_a_name_before_a_run_begins(monkeypatch):
    monkeypatch.setattr("yantai.training.setup.choose_dtype", lambda name, _: torch.float16)
    assert fill_in(Pretrain(out=Path("x"))).dtype == "float16"
