"""Configuration is frozen data: read from flags, environment, file and defaults, in that order.

Knows: pydantic models, YAML, names that are nearly right. Builds nothing and knows no trainer.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from yantai.base.errors import DataError, UsageError

MAX_CONFIG_BYTES = 1_000_000


class Config(BaseModel):
    """The base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), validate_by_name=True
    )


ConfigType = TypeVar("ConfigType", bound=BaseModel)
Entry = TypeVar("Entry")


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that is most like a mistyped one, or None.

    >>> nearest("tempratur", ["temperature", "top_k"])
    'temperature'
    """
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def look_up(table: Mapping[str, Entry], name: str, field: str) -> Entry:
    """The entry of a table that a setting names.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if name in table:
        return table[name]
    guess = nearest(name, list(table))
    raise UsageError(
        "E201",
        field,
        f"unknown {name!r}",
        expected=", ".join(table),
        do=f"did you mean '{guess}'?" if guess else None,
    )


def build(model: type[ConfigType], values: dict[str, Any], where: str = "") -> ConfigType:
    """Make a configuration from plain values; any mistake becomes one line that names the field.

    Raises:
        UsageError: an unknown key (with the nearest known one), a missing or an illegal value.
    """
    known = [field.alias or name for name, field in model.model_fields.items()]
    prefix = f"{where}:" if where else ""
    for key in values:
        if key not in known and key not in model.model_fields:
            guess = nearest(str(key), known)
            raise UsageError(
                "E202",
                f"{prefix}{key}",
                "unknown key",
                expected=f"one of {', '.join(known)}" if guess is None else None,
                do=f"did you mean '{guess}'?" if guess else None,
            )
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        got = "nothing" if first["type"] == "missing" else repr(first.get("input"))
        message = first["msg"].removeprefix("Value error, ")
        if not field:  # a contradiction between fields says itself which
            raise UsageError("E203", where or model.__name__, message) from error
        raise UsageError("E201", f"{prefix}{field}", message, got=got) from error


def lines_of_yaml(path: Path) -> dict[str, int]:
    """The line on which each key of a settings file stands; the file is one that `read_yaml` reads.

    Args:
        path: of the file.
    """
    node = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {str(key.value): key.start_mark.line + 1 for key, _ in pairs}


class _Loader(yaml.SafeLoader):
    """Of the keys that stand twice in a table the second would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a table of settings.

    Raises:
        UsageError: the file is missing.
        DataError: it is not YAML, or not a table.
    """
    if not path.is_file():
        raise UsageError("E206", path, "no such file", do="check the path")
    raw = path.read_bytes()
    if len(raw) > MAX_CONFIG_BYTES:
        raise DataError(
            "E308", path, "too large", expected=f"at most {MAX_CONFIG_BYTES:,} bytes", got=len(raw)
        )
    try:
        value = yaml.load(raw, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable as YAML"
        raise DataError("E304", f"{path}{line}", str(problem)) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError("E304", path, "not a table", expected="lines 'key: value'")
    return {str(key).replace("-", "_"): item for key, item in value.items()}
