from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from yantai.base.config import MAX_CONFIG_BYTES, Config, build, nearest, read_yaml
from yantai.base.errors import DataError, UsageError


class Sampling(Config):
    temperature: float = Field(1.0, ge=0, le=2)
    top_k: int | None = None
    prompt: str


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("tempratur", "temperature"), ("topk", "top_k"), ("promt", "prompt"), ("xyzzy", None)],
)
def test_a_mistyped_name_finds_the_one_that_was_meant(typed, meant):
    assert nearest(typed, ["temperature", "top_k", "prompt"]) == meant


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UsageError) as caught:
        build(Sampling, {"prompt": "a", "tempratur": 1}, "recipe.yaml")
    assert caught.value.code == "E202"
    assert str(caught.value) == "recipe.yaml:tempratur: unknown key; did you mean 'temperature'?"


def test_an_unknown_key_like_no_other_lists_all():
    with pytest.raises(UsageError, match="expected one of temperature, top_k, prompt"):
        build(Sampling, {"prompt": "a", "xyzzy": 1})


def test_a_value_out_of_range_names_field_and_value():
    with pytest.raises(UsageError, match=r"^temperature: .*less than or equal to 2; got 7"):
        build(Sampling, {"prompt": "a", "temperature": 7})


def test_a_missing_value_is_told():
    with pytest.raises(UsageError, match="prompt: Field required; got nothing"):
        build(Sampling, {})


def test_a_config_is_frozen_and_whole():
    made = build(Sampling, {"prompt": "a", "top_k": 5})
    assert (made.temperature, made.top_k, made.prompt) == (1.0, 5, "a")
    with pytest.raises(ValidationError):
        made.top_k = 6


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.integers(), st.text())))
def test_no_values_raise_anything_but_a_usage_error(values):
    try:
        made = build(Sampling, values)
    except UsageError as error:
        assert error.code in ("E201", "E202")
    else:
        assert made.prompt == values["prompt"]


def test_yaml_is_a_table_with_names_like_the_flags(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("top-k: 5\nprompt: 你好\n", encoding="utf-8")
    assert read_yaml(path) == {"top_k": 5, "prompt": "你好"}
    path.write_text("")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"- 1\n- 2\n", "E304", "not a table"),
        (b"a: 1\nb: [1\n", "E304", r"recipe\.yaml:\d+: "),
        (b"a: !!python/object/apply:os.system ['true']\n", "E304", "could not determine"),
        (b"a: 1\x00\n", "E304", "not readable|special characters"),
        (b"a: " + b"x" * MAX_CONFIG_BYTES, "E308", "too large"),
    ],
)
def test_what_is_no_settings_file_is_a_data_error(tmp_path, content, code, text):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=text) as caught:
        read_yaml(path)
    assert caught.value.code == code


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
