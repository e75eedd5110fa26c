"""Pairs of texts that mean the same, or belong together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from yantai.core.face import Model
from yantai.data.examples import Example, ExampleRows
from yantai.data.pairs import Pair
from yantai.evaluate.compare import bootstrap_difference, proportion
from yantai.families.rules import Family
from yantai.life.jobs.job import NOBODY, PairJob, Prepared, worst_rows
from yantai.metrics.floor import shared_letters
from yantai.tasks.frame import Frame
from yantai.tasks.similar import Similar, text_vectors
from yantai.training.recipe import Finetune

TOGETHER = 1024


class EmbedJob(PairJob):
    """`--task embed`: vectors in which a text is nearest to its partner."""

    usual_family = "bert"
    shapes = ("decoder", "encoder", "encoder-decoder")
    judges = True

    def network(self, model: Model, family: Family, settings: Finetune) -> tuple[Model, Family]:
        """The model, of which learns what makes the vectors."""
        model, family = super().network(model, family, settings)
        stack = "decoder." if model.config.shape == "decoder" else "encoder."
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(("embed.", stack)))
        return model, family

    def prepare(
        self, frame: Frame, train: Sequence[Pair], valid: Sequence[Pair], seed: int
    ) -> Prepared:
        """A pair an example."""
        rows = [
            ExampleRows(_pairs(frame, part), 2 * frame.length, seed=seed) for part in (train, valid)
        ]
        return Prepared(Similar(), *rows)

    def predict(self, network: Model, frame: Frame, rows: Sequence[Pair]) -> NDArray[np.bool_]:
        """Whether the nearest of all second texts to each first one is its own, or is the same."""
        texts = [row.source for row in rows] + [row.target for row in rows]
        vectors = text_vectors(network, frame, texts)
        first, second = vectors[: len(rows)], vectors[len(rows) :]
        nearest = torch.cat([(part @ second.T).argmax(1) for part in first.split(TOGETHER)])
        targets = [row.target for row in rows]
        said = zip(nearest.tolist(), targets, strict=True)
        return np.array([targets[place] == own for place, own in said])

    def scores(self, rows: Sequence[Pair], said: NDArray[np.bool_]) -> dict[str, float]:
        """The share that is found."""
        return {"found": float(said.mean())}

    def report(
        self,
        train: Sequence[Pair],
        test: Sequence[Pair],
        said: NDArray[np.bool_],
        seed: int,
        others: Mapping[str, NDArray[np.bool_]] = NOBODY,
    ) -> dict[str, Any]:
        """Beside somebody who counts the letters that two texts share."""
        letters = shared_letters([row.source for row in test], [row.target for row in test])
        floors = {**others, "shared letters": letters}
        chance = 1 / len(test)

        def share(hits: NDArray[np.bool_]) -> dict[str, Any]:
            return {"found": proportion(int(hits.sum()), len(hits), chance=chance).as_dict()}

        return {
            "n": len(test),
            "metrics": share(said),
            "floors": {name: share(hits) for name, hits in floors.items()},
            "against": {
                name: bootstrap_difference(
                    lambda rows, hits=hits: float(said[rows].mean() - hits[rows].mean()),
                    len(test), ("the model is better", f"{name} is better"), seed,
                    hits=(said, hits),
                )
                for name, hits in floors.items()
            },
        }  # fmt: skip

    def worst(self, rows: Sequence[Pair], said: NDArray[np.bool_]) -> list[dict[str, str]]:
        """Pairs that were not found."""
        return worst_rows(
            rows, (~said).astype(float).tolist(),
            lambda row, at: {"text": row.source, "its own": row.target},
        )  # fmt: skip


def _pairs(frame: Frame, rows: Sequence[Pair]) -> list[Example]:
    """Both texts of each row behind each other, in a row that is twice as long as the longest."""
    found, size = [], frame.length
    for row in rows:
        texts = [frame.tokenizer.prompt(text) for text in (row.source, row.target)]
        cut = sum(max(0, len(text) - size) for text in texts)
        ids = texts[0][:size] + texts[1][:size]
        border = min(size, len(texts[0]))
        found.append(Example(ids, [0] * len(ids), row.place, border=border, cut=cut))
    return found
