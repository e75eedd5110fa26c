"""Pairs of answers, of which one is preferred."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.base.errors import DataError
from yantai.core.face import Model
from yantai.data.examples import Example, ExampleRows
from yantai.data.preferences import Preference, read_preferences
from yantai.evaluate.compare import bootstrap_difference, proportion
from yantai.life.jobs.chat import learned_row
from yantai.life.jobs.job import NOBODY, LanguageJob, Prepared, worst_rows
from yantai.tasks.causal import answer_losses
from yantai.tasks.frame import Frame
from yantai.tasks.prefer import Prefer
from yantai.text.chat import ChatFormat
from yantai.training.recipe import Finetune


class PreferJob(LanguageJob):
    """`--task prefer`: direct preference optimisation."""

    name = "prefer"
    usual_family = "llama"

    def __init__(self, settings: Finetune):
        self.beta = settings.beta
        self.reference: Model | None = None
        self.before: NDArray[np.float64] | None = None

    def read(self, path: Path, **options: Any) -> tuple[list[Preference], Any]:
        """Rows in either form."""
        return read_preferences(path, **options)

    def text_of(self, row: Preference) -> str:
        """What is said, and preferred."""
        return "\n".join(each["content"] for each in row.chosen)

    def look_before(self, network: Model, frame: Frame, test: Sequence[Preference]) -> None:
        """The model that must not be left too far, and what it prefers by itself."""
        self.reference = copy.deepcopy(network).requires_grad_(False).eval()
        self.before = self.predict(self.reference, frame, test) if test else None

    def prepare(
        self, frame: Frame, train: Sequence[Preference], valid: Sequence[Preference], seed: int
    ) -> Prepared:
        """A pair an example."""
        assert self.reference is not None
        rows = [
            ExampleRows(_pairs(frame, part), 2 * frame.length, seed=seed) for part in (train, valid)
        ]
        return Prepared(Prefer(self.reference, self.beta), *rows)

    def predict(
        self, network: Model, frame: Frame, rows: Sequence[Preference]
    ) -> NDArray[np.float64]:
        """Shape "row 2": ln p of both answers of each row."""
        sides = [[part[side] for part in map(_sides, _pairs(frame, rows))] for side in (0, 1)]
        found = [answer_losses(network, frame.rows(side))[:, 0] for side in sides]
        return -np.stack(found, 1)

    def report(
        self,
        train: Sequence[Preference],
        test: Sequence[Preference],
        said: NDArray[np.float64],
        seed: int,
        others: Mapping[str, NDArray[np.float64]] = NOBODY,
    ) -> dict[str, Any]:
        """How often the preferred answer is the likelier one, and how often it gained more."""
        floors = dict(others)
        metrics = {"likelier": _share(_likelier(said))}
        if self.before is not None:
            floors["the model before"] = self.before
            metrics["gained"] = _share(_likelier(said - self.before))
        return {
            "n": len(test),
            "metrics": metrics,
            "floors": {
                name: {"likelier": _share(_likelier(table))} for name, table in floors.items()
            },
            "against": {
                name: bootstrap_difference(
                    lambda rows, table=table: float(
                        _likelier(said)[rows].mean() - _likelier(table)[rows].mean()
                    ),
                    len(test), ("the model is better", f"{name} is better"), seed,
                    hits=(_likelier(said), _likelier(table)),
                )
                for name, table in floors.items()
            },
        }  # fmt: skip

    def unfit(self, frame: Frame) -> Callable[[Preference], str]:
        """The template refuses it."""
        chat = ChatFormat(frame.tokenizer)

        def why(row: Preference) -> str:
            try:
                for messages in (row.chosen, row.rejected):
                    learned_row(chat, messages, row.place)
            except DataError as error:
                return error.what
            return ""

        return why

    def worst(self, rows: Sequence[Preference], said: NDArray[np.float64]) -> list[dict[str, str]]:
        """The rows whose rejected answer is likelier by most."""
        return worst_rows(
            rows, (said[:, 1] - said[:, 0]).tolist(),
            lambda row, at: {
                "text": str(row.chosen[-2]["content"]) if len(row.chosen) > 1 else "",
                "preferred": f"{row.chosen[-1]['content']} (ln p {said[at, 0]:.1f})",
                "rejected": f"{row.rejected[-1]['content']} (ln p {said[at, 1]:.1f})",
            },
        )  # fmt: skip


def _likelier(logs: NDArray[np.float64]) -> NDArray[np.bool_]:
    return logs[:, 0] > logs[:, 1]


def _share(hits: NDArray[np.bool_]) -> dict[str, Any]:
    return proportion(int(hits.sum()), len(hits), chance=0.5).as_dict()


def _pairs(frame: Frame, rows: Sequence[Preference]) -> list[Example]:
    """Both answers of each row behind each other, in a row twice as long as the longest."""
    chat = ChatFormat(frame.tokenizer)
    found = []
    for row in rows:
        sides, cut = [], 0
        for messages in (row.chosen, row.rejected):
            # only the last answer is compared: what stands before it is the same
            rendered = learned_row(chat, messages, row.place)
            learn = _last_run(rendered.learn)
            whole = Example.of_text(rendered.ids, learn, row.place)
            size = frame.length
            cut += max(0, len(whole.ids) - size)
            sides.append((list(whole.ids[-size:]), list(whole.targets[-size:])))
        (ids, targets), (others, other_targets) = sides
        found.append(
            Example(ids + others, targets + other_targets, row.place, border=len(ids), cut=cut)
        )
    return found


def _sides(pair: Example) -> tuple[Example, Example]:
    """The two texts of a pair, apart."""
    at = pair.border
    return (
        Example(pair.ids[:at], pair.targets[:at], pair.name),
        Example(pair.ids[at:], pair.targets[at:], pair.name),
    )


def _last_run(learn: Sequence[bool]) -> list[bool]:
    """The last of the runs of learned tokens."""
    end = len(learn)
    while end and not learn[end - 1]:
        end -= 1
    start = end
    while start and learn[start - 1]:
        start -= 1
    return [start <= place < end for place in range(len(learn))]
