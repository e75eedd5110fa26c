"""Folders in our own form, for what `transformers` has no class for: the recurrent networks.

Knows: that config.json then holds our fields under our names, and the tensors have our names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yantai.base.errors import UsageError
from yantai.core.config import RecurrentConfig
from yantai.families.rules import Family, Renamed, TensorRow, checked_config

NOTE = "written by Yantai; transformers has no class for it"


@dataclass(frozen=True)
class OwnFamily(Family):
    """A family whose names are ours.

    Attributes:
        own: the fields that every model of the family has.
    """

    own: tuple[tuple[str, Any], ...] = ()

    def fixed(self) -> dict[str, Any]:
        """What a new model of the family does not choose for itself."""
        return dict(self.own)

    def read_config(self, theirs: Mapping[str, Any], where: str) -> Any:
        """config.json → ours; a field that the file lacks has its default."""
        names = self.structure.model_fields
        given = {name: theirs[name] for name in names if name in theirs}
        return checked_config(self.structure, given | dict(self.own), where, {})

    def write_config(self, config: Any) -> dict[str, Any]:
        """Ours → config.json.

        Raises:
            UsageError: the model is of another family.
        """
        if not isinstance(config, self.structure):
            raise UsageError("E203", "family", f"{self.name} cannot express the model")
        for name, value in self.own:
            if getattr(config, name) != value:
                raise UsageError(
                    "E203", f"config.{name}", "this family cannot express the model",
                    expected=value, got=getattr(config, name), do="choose another --family",
                )  # fmt: skip
        head = {"architectures": [self.architecture], "model_type": self.name, "note": NOTE}
        return head | config.model_dump(mode="json")

    def rows(self, names: set[str]) -> list[tuple[TensorRow, dict[str, int]]]:
        """Each tensor under its name."""
        return [(Renamed(name, name), {}) for name in sorted(names)]


def _recurrent(name: str, kind: str, shape: str = "decoder") -> OwnFamily:
    return OwnFamily(
        name=name,
        architecture="YantaiRecurrent",
        config=(),
        tensors=(
            Renamed("embed.tokens.weight", "embed.tokens.weight"),
            Renamed("head.weight", "head.weight"),
        ),
        initial="recurrent",
        structure=RecurrentConfig,
        in_transformers=False,
        own=(("kind", kind), ("shape", shape)),
    )


RNN = _recurrent("rnn", "rnn")
LSTM = _recurrent("lstm", "lstm")
GRU = _recurrent("gru", "gru")
GRU_SEQ2SEQ = _recurrent("gru-seq2seq", "gru", "encoder-decoder")
