"""Reversible rows: how a config field or a tensor of ours corresponds to one of theirs.

Knows: the kinds of row, each with its reverse. Knows no family (those are tables of rows) and no
files. A family is read and written by the same two tables, so the directions cannot drift apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from yantai.base.config import Config
from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import ModelConfig

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Field:
    """A config field: ours ↔ theirs, by a dictionary of values where the values have other names.

    Attributes:
        ours: a field of `ModelConfig`.
        theirs: a key of config.json.
        values: our value → theirs; None copies.
        default: what an absent key means, from what was read so far; no default means required.
    """

    ours: str
    theirs: str
    values: Mapping[Any, Any] | None = None
    default: Callable[[dict[str, Any]], Any] | None = None

    def read(self, theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        """config.json → our field."""
        value = theirs.get(self.theirs)
        if value is None:
            if self.default is None:
                raise ModelFileError("E401", f"{where}:{self.theirs}", "the field is missing")
            ours[self.ours] = self.default(ours)
            return
        if self.values is not None:
            back = {their_value: our_value for our_value, their_value in self.values.items()}
            if not isinstance(value, (str, bool, int)) or value not in back:
                known = ", ".join(str(item) for item in back)
                raise ModelFileError(
                    "E401", f"{where}:{self.theirs}", "unsupported", expected=known, got=value
                )
            value = back[value]
        ours[self.ours] = value

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """Our field → config.json."""
        value = getattr(config, self.ours)
        if self.values is not None:
            if value not in self.values:
                raise UsageError("E203", self.ours, f"{value!r} has no name in this family")
            value = self.values[value]
        theirs[self.theirs] = value


@dataclass(frozen=True)
class Fixed:
    """A choice that the family does not leave open: always this value of ours."""

    ours: str
    value: Any

    def read(self, theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        """The value, whatever the file says."""
        ours[self.ours] = self.value

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """Nothing; but a model that chose otherwise cannot be written as this family."""
        got = getattr(config, self.ours)
        if got != self.value:
            raise UsageError(
                "E203",
                f"config.{self.ours}",
                "this family cannot express the model",
                expected=self.value,
                got=got,
                do="choose another --family",
            )


@dataclass(frozen=True)
class Theirs:
    """A key that only their file has; reading checks it against what we can do.

    Attributes:
        key: the key of config.json.
        value: what we write.
        allowed: what we accept when reading; anything else is an unsupported model.
    """

    key: str
    value: Any
    allowed: tuple[Any, ...] | None = None

    def read(self, theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        """Refuse a setting whose arithmetic we do not have."""
        if self.allowed is None or self.key not in theirs:
            return
        if theirs[self.key] not in self.allowed:
            raise ModelFileError(
                "E402",
                f"{where}:{self.key}",
                "a setting that is not supported",
                expected=" or ".join(str(item) for item in self.allowed),
                got=theirs[self.key],
            )

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """The constant."""
        theirs[self.key] = self.value


@dataclass(frozen=True)
class Computed:
    """A key that follows from other fields when written, and sets one of ours when read."""

    key: str
    write_value: Callable[[ModelConfig], Any]
    read_value: Callable[[Mapping[str, Any], dict[str, Any], str], None]

    def read(self, theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        """config.json → our fields."""
        self.read_value(theirs, ours, where)

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """Our fields → config.json."""
        theirs[self.key] = self.write_value(config)


@dataclass(frozen=True)
class Members:
    """A field of ours that is a set of names, some of which a key of theirs switches on.

    Attributes:
        ours: the field.
        always: names that every model of the family has.
        switched: key of theirs → the names it stands for.
        default: what an absent key means.
    """

    ours: str
    always: tuple[str, ...] = ()
    switched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default: Mapping[str, bool] = field(default_factory=dict)

    @property
    def usual(self) -> tuple[str, ...]:
        """The names where their file says nothing."""
        switched = [self.switched[key] for key, on in self.default.items() if on]
        return tuple(sorted({*self.always, *(name for names in switched for name in names)}))

    def read(self, theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        """Switches → names."""
        found = set(self.always)
        for key, names in self.switched.items():
            given = theirs.get(key)
            if given if given is not None else self.default.get(key, False):
                found |= set(names)
        ours[self.ours] = tuple(sorted(found))

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        """Names → switches."""
        got = set(getattr(config, self.ours))
        expressed = set(self.always)
        for key, names in self.switched.items():
            theirs[key] = set(names) <= got
            expressed |= set(names) if theirs[key] else set()
        if got != expressed:
            raise UsageError(
                "E203",
                f"config.{self.ours}",
                "this family cannot express the model",
                expected=", ".join(sorted(expressed)) or "none",
                got=", ".join(sorted(got)) or "none",
                do="choose another --family",
            )


ConfigRow = Field | Fixed | Theirs | Computed | Members


@dataclass(frozen=True)
class Renamed:
    """One tensor under another name.

    Attributes:
        ours, theirs: the names; `{layer}` counts blocks.
        transposed: they keep inputs before outputs.
        beside: another tensor of ours that a model must have for this row to hold.
        without: one that it must not have.
    """

    ours: str
    theirs: str
    transposed: bool = False
    beside: str = ""
    without: str = ""

    def read(self, theirs: Mapping[str, Tensor], index: Mapping[str, int]) -> Tensors:
        """Their tensor → ours."""
        value = theirs[self.theirs.format(**index)]
        return {self.ours.format(**index): value.t() if self.transposed else value}

    def write(self, ours: Mapping[str, Tensor], index: Mapping[str, int]) -> Tensors:
        """Our tensor → theirs."""
        value = ours[self.ours.format(**index)]
        return {self.theirs.format(**index): value.t() if self.transposed else value}


@dataclass(frozen=True)
class Merged:
    """Several tensors of ours that they keep in one, end to end along the outputs."""

    ours: tuple[str, ...]
    theirs: str
    transposed: bool = False

    def read(self, theirs: Mapping[str, Tensor], index: Mapping[str, int]) -> Tensors:
        """Cut their tensor apart, in equal parts."""
        value = theirs[self.theirs.format(**index)]
        value = value.t() if self.transposed else value
        parts = value.chunk(len(self.ours), dim=0)
        return {name.format(**index): part for name, part in zip(self.ours, parts, strict=True)}

    def write(self, ours: Mapping[str, Tensor], index: Mapping[str, int]) -> Tensors:
        """Join ours."""
        value = torch.cat([ours[name.format(**index)] for name in self.ours])
        return {self.theirs.format(**index): value.t() if self.transposed else value}


TensorRow = Renamed | Merged


@dataclass(frozen=True)
class Constant:
    """A tensor that only their file has, always with the same numbers."""

    theirs: str
    value: Callable[[ModelConfig], Tensor]


@dataclass(frozen=True)
class Family:
    """Two tables and the names that Hugging Face's config.json carries.

    Attributes:
        name: the `model_type`.
        architecture: the class that `transformers` builds.
        config: rows between `ModelConfig` and config.json.
        tensors: rows between tensor names; `{layer}` counts blocks.
        ignored: names of theirs that carry nothing (buffers of old versions).
        constants: tensors of theirs that are always the same.
        usual: what a new model has where the tables leave a choice.
        initial: the table of first weights that suits the family.
        prefix: what some files leave out before every name.
        structure: what a model of the family is made of.
        in_transformers: whether `transformers` opens its folders.
        job: what a model of it does that judges (see `labels.py`); "" for a language model.
    """

    name: str
    architecture: str
    config: tuple[ConfigRow, ...]
    tensors: tuple[TensorRow, ...]
    constants: tuple[Constant, ...] = ()
    usual: Mapping[str, Any] = field(default_factory=dict)
    initial: str = "zero"
    ignored: tuple[str, ...] = ()
    prefix: str = ""
    structure: type[Config] = ModelConfig
    in_transformers: bool = True
    job: str = ""

    def fixed(self) -> dict[str, Any]:
        """The fields of `ModelConfig` that a new model of the family does not choose for itself."""
        fixed = {row.ours: row.value for row in self.config if isinstance(row, Fixed)}
        members = {row.ours: row.usual for row in self.config if isinstance(row, Members)}
        return fixed | members | dict(self.usual)

    def read_config(self, theirs: Mapping[str, Any], where: str) -> Any:
        """config.json → ours.

        Raises:
            ModelFileError: a field is missing, out of range or asks for what we do not compute.
        """
        ours: dict[str, Any] = {}
        for row in self.config:
            try:
                row.read(theirs, ours, where)
            except (TypeError, KeyError, ValueError, AttributeError, ArithmeticError) as error:
                key = getattr(row, "theirs", None) or getattr(row, "key", "config")
                got = theirs.get(key)
                raise ModelFileError(
                    "E401", f"{where}:{key}", "makes no sense here", got=repr(got)[:80]
                ) from error
        keys = {row.ours: row.theirs for row in self.config if isinstance(row, Field)}
        return checked_config(self.structure, ours, where, keys)

    def write_config(self, config: Any) -> dict[str, Any]:
        """Ours → config.json.

        Raises:
            UsageError: the model has a part that this family cannot express.
        """
        theirs: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.name}
        for row in self.config:
            row.write(config, theirs)
        return theirs

    def rows(self, names: set[str]) -> list[tuple[TensorRow, dict[str, int]]]:
        """The rows that a model with these parameter names has, layer by layer."""
        found = []
        for row in self.tensors:
            first = row.ours[0] if isinstance(row, Merged) else row.ours
            for layer in range(len(names)):
                if first.format(layer=layer) not in names or not _holds(row, names, layer):
                    break
                found.append((row, {"layer": layer}))
                if "{layer}" not in first:
                    break
        return found


def checked_config(
    structure: type[Config], ours: Mapping[str, Any], where: str, keys: Mapping[str, str]
) -> Any:
    """The configuration, or an error that names the key of config.json.

    Args:
        structure: what is built.
        ours: its fields.
        where: the file.
        keys: our fields → their keys, where the names differ.
    """
    try:
        return structure(**ours)
    except ValueError as error:
        first = error.errors(include_url=False)[0]  # ty: ignore[missing-attribute]
        name = str(first["loc"][0]) if first["loc"] else ""
        got = repr(first["input"]) if name else None
        message = first["msg"].removeprefix("Value error, ")
        key = keys.get(name, name or "config")
        raise ModelFileError("E401", f"{where}:{key}", message, got=got) from error


def _holds(row: TensorRow, names: set[str], layer: int) -> bool:
    """Whether what the row asks of other tensors is so."""
    if isinstance(row, Merged):
        return True
    there = not row.beside or row.beside.format(layer=layer) in names
    return there and (not row.without or row.without.format(layer=layer) not in names)
