"""Multiple choice by likelihood: which answer a language model finds likeliest.

Knows: scores of continuations, as they are and for their length. Nothing is learned here; the job
is one of `yantai evaluate` alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.base.errors import UsageError
from yantai.core.face import Model
from yantai.data.choices import Choice, read_choices
from yantai.data.examples import Example
from yantai.evaluate.compare import bootstrap_difference, proportion
from yantai.life.jobs.job import NOBODY, LanguageJob, Prepared, worst_rows
from yantai.tasks.causal import continuations
from yantai.tasks.frame import Frame
from yantai.text.spans import joined
from yantai.training.recipe import Finetune

Said = dict[str, NDArray[np.bool_]]


class ChooseJob(LanguageJob):
    """`yantai evaluate MODEL --task choose`."""

    name = "choose"
    usual_family = "llama"

    def __init__(self, settings: Finetune):
        pass

    def read(self, path: Path, **options: Any) -> tuple[list[Choice], Any]:
        """Rows of either form."""
        return read_choices(path, **options)

    def text_of(self, row: Choice) -> str:
        """The right pair."""
        return " ".join(row.pairs[row.gold])

    def prepare(
        self, frame: Frame, train: Sequence[Choice], valid: Sequence[Choice], seed: int
    ) -> Prepared:
        """Nothing is learned."""
        raise UsageError("E203", "task", "choosing is measured, not taught")

    def predict(self, network: Model, frame: Frame, rows: Sequence[Choice]) -> Said:
        """Whether the right option has the highest likelihood: as it is, and for each byte.

        Where there is one option alone: whether it is what the model would say.
        """
        examples = [_example(frame, *pair, row.place) for row in rows for pair in row.pairs]
        found = continuations(network, frame.rows(examples))
        said: dict[str, list[bool]] = {"likeliest": [], "likeliest_by_length": []}
        at = 0
        for row in rows:
            part = found[at : at + len(row.pairs)]
            at += len(row.pairs)
            if len(row.pairs) == 1:
                said["likeliest"].append(bool(part[0, 1]))
                said["likeliest_by_length"].append(bool(part[0, 1]))
                continue
            sizes = np.array([len(follows.strip().encode()) for _, follows in row.pairs])
            said["likeliest"].append(int(part[:, 0].argmax()) == row.gold)
            said["likeliest_by_length"].append(int((part[:, 0] / sizes).argmax()) == row.gold)
        return {name: np.array(hits) for name, hits in said.items()}

    def report(
        self,
        train: Sequence[Choice],
        test: Sequence[Choice],
        said: Said,
        seed: int,
        others: Mapping[str, Said] = NOBODY,
    ) -> dict[str, Any]:
        """Shares with Wilson's interval, beside chance."""
        single = all(len(row.pairs) == 1 for row in test)
        chance = 0.0 if single else float(np.mean([1 / len(row.pairs) for row in test]))

        def shares(found: Said) -> dict[str, Any]:
            kept = {"said": found["likeliest"]} if single else found
            return {
                name: proportion(int(hits.sum()), len(hits), chance=chance).as_dict()
                for name, hits in kept.items()
            }

        mine = said["likeliest_by_length"]
        return {
            "n": len(test),
            "metrics": shares(said),
            "floors": {name: shares(found) for name, found in others.items()},
            "against": {
                name: bootstrap_difference(
                    lambda rows, theirs=found["likeliest_by_length"]: float(
                        mine[rows].mean() - theirs[rows].mean()
                    ),
                    len(test), ("the model is better", f"{name} is better"), seed,
                    hits=(mine, found["likeliest_by_length"]),
                )
                for name, found in others.items()
            },
        }  # fmt: skip

    def worst(self, rows: Sequence[Choice], said: Said) -> list[dict[str, str]]:
        """Rows whose right option is not the likeliest for its length."""
        return worst_rows(
            rows, (~said["likeliest_by_length"]).astype(float).tolist(),
            lambda row, at: {"text": row.pairs[row.gold][0], "true": row.pairs[row.gold][1]},
        )  # fmt: skip


def _example(frame: Frame, begins: str, follows: str, name: str) -> Example:
    """A pair as one text; the tokens that spell the continuation are its targets."""
    begins = begins.rstrip()
    text, _ = joined([begins, follows.strip()])
    ids, offsets = frame.tokenizer.encode_with_offsets(text)
    first = next(place for place, (_, end) in enumerate(offsets) if end > len(begins))
    whole = frame.begin + ids
    learn = [place >= len(frame.begin) + first for place in range(len(whole))]
    size = frame.length  # the end is what counts: of a long beginning the last tokens are kept
    return Example.of_text(whole[-size - 1 :], learn[-size - 1 :], name)
