"""Odd values in config.json: each is a model or an error that names the field, before memory."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.config import Config
from yantai.base.errors import ModelFileError
from yantai.core.config import ModelConfig, RecurrentConfig
from yantai.families.folder import load_folder
from yantai.families.table import FAMILIES
from yantai.training.network import model_config
from yantai.training.recipe import Pretrain

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.sampled_from([10**12, 2**63, -(2**40), 1e400]),
    st.floats(allow_nan=True), st.text(max_size=5), st.just([]), st.just({}), st.just([1, 2]),
    st.dictionaries(st.sampled_from(["rope_type", "factor", "type"]), st.integers(0, 9)),
)  # fmt: skip


def written(name):
    family = FAMILIES[name]
    recipe = Pretrain(out="x", size="nano", family=name)
    return json.loads(json.dumps(family.write_config(model_config(recipe, family, 300))))


GOOD = {name: written(name) for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
@given(draw=st.data())
@settings(max_examples=75, deadline=None)
def test_any_value_in_any_field_is_a_model_or_an_error_with_its_place(name, draw):
    table = copy.deepcopy(GOOD[name])
    keys = draw.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=3))
    for key in keys:
        if draw.draw(st.booleans()):
            table[key] = draw.draw(ODD)
        else:
            table.pop(key, None)
    try:
        config = FAMILIES[name].read_config(table, "config.json")
    except ModelFileError as error:
        assert error.code in ("E401", "E402")
        assert str(error).startswith("config.json:")
    else:
        assert isinstance(config, Config) and isinstance(config, (ModelConfig, RecurrentConfig))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_reads_what_it_writes(name):
    config = FAMILIES[name].read_config(GOOD[name], "config.json")
    assert json.loads(json.dumps(FAMILIES[name].write_config(config))) == GOOD[name]


IMPOSSIBLE = {
    "10^12 layers": {"num_hidden_layers": 10**12},
    "negative heads": {"num_attention_heads": -4},
    "heads that do not divide": {"num_attention_heads": 5, "num_key_value_heads": 3},
    "NaN": {"rms_norm_eps": float("nan")},
    "1e400": {"rope_parameters": {"rope_type": "default", "rope_theta": float("inf")}},
    "a text for a number": {"hidden_size": "wide"},
    "a vocabulary of 10^15": {"vocab_size": 10**15},
    "a field that is missing": {"vocab_size": None},
    "no such type": {"model_type": "mamba"},
    "no type": {"model_type": None},
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_config_is_refused_before_a_weight_is_looked_at(name, tmp_path):
    table = GOOD["qwen3"] | IMPOSSIBLE[name]
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(ModelFileError, match=r"config\.json:"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "{", "", "null", "3", '{"a": ' + "[" * 100_000], ids=range(6)
)
def test_a_config_that_is_no_table_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"config\.json"):
        load_folder(tmp_path)


def test_code_that_a_config_names_is_not_run(tmp_path, capsys):
    """F24: auto_map and trust_remote_code are words in a file."""
    from yantai.core.initialise import build
    from yantai.families.folder import save_folder

    family = FAMILIES["qwen3"]
    config = family.read_config(GOOD["qwen3"], "config.json")
    save_folder(build(config), family, tmp_path)
    canary = tmp_path / "ran"
    (tmp_path / "modeling_own.py").write_text(f"open({str(canary)!r}, 'w').close()")
    path = tmp_path / "config.json"
    table = json.loads(path.read_text())
    table |= {"auto_map": {"AutoModel": "modeling_own.Own"}, "trust_remote_code": True}
    path.write_text(json.dumps(table))
    load_folder(tmp_path)
    assert not canary.exists()
    assert "auto_map" in capsys.readouterr().err
