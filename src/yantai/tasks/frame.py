"""How a text becomes what a network reads: between BOS and EOS, cut to what it holds.

Knows: where in a text it is judged. An encoder judges at its first token, which sees all; a decoder
at its last. An encoder–decoder's decoder reads the text once more, a token late, and judges at the
end, as BART does (arXiv 1910.13461, section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yantai.base.pulse import pulse
from yantai.core.config import Labels
from yantai.core.face import Model
from yantai.data.batch import IGNORED
from yantai.data.examples import Example, ExampleRows, batches_of
from yantai.tasks.task import read
from yantai.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Frame:
    """What belongs to every text of a model.

    Attributes:
        tokenizer: of the model.
        shape: of the model.
        length: tokens an example may have, BOS and EOS included.
        start_id: what an encoder–decoder's decoder reads first.
    """

    tokenizer: Tokenizer
    shape: str
    length: int
    start_id: int | None = None

    @property
    def begin(self) -> list[int]:
        """BOS, where there is one."""
        return [self.tokenizer.bos_id] if self.tokenizer.bos_id is not None else []

    @property
    def end(self) -> list[int]:
        """EOS, where there is one."""
        return [self.tokenizer.eos_id] if self.tokenizer.eos_id is not None else []

    @property
    def between(self) -> list[int]:
        """What stands between two texts: EOS, and once more where the tokenizer's own pairs do."""
        around = len(self.begin) + len(self.end)
        return self.end * max(1, self.tokenizer.specials_of_a_pair - around)

    @property
    def room(self) -> int:
        """Tokens of the text itself."""
        return self.length - len(self.begin) - len(self.end)

    def example(
        self,
        ids: Sequence[int],
        name: str,
        *,
        judgement: int = IGNORED,
        targets: Sequence[int] | None = None,
        second: int = 0,
    ) -> Example:
        """A text that is judged as a whole, or token by token; the end of a long one is cut.

        `second` is where another text begins in what is read, BOS counted.
        """
        whole = self.begin + list(ids[: self.room]) + self.end
        aims = [IGNORED] * len(whole)
        if targets is not None:
            aims[len(self.begin) : len(whole) - len(self.end)] = targets[: self.room]
        if judgement != IGNORED:
            aims[0 if self.shape == "encoder" else -1] = judgement
        cut = max(0, len(ids) - self.room)
        if self.shape != "encoder-decoder":
            return Example(whole, aims, name, cut=cut, second=second)
        assert self.start_id is not None
        return Example([self.start_id, *whole[:-1]], aims, name, whole, cut=cut)

    def rows(self, examples: Sequence[Example], seed: int = 0) -> ExampleRows:
        """Several examples a row."""
        beside = self.length if self.shape == "encoder-decoder" else None
        return ExampleRows(examples, self.length, source_length=beside, seed=seed)


@torch.inference_mode()
def logits_at(model: Model, rows: ExampleRows, count: int, batch: int = 8) -> Tensor:
    """Float[place, label]: what a head of labels says where the targets are numbers of places.

    Args:
        model: in evaluation mode.
        rows: each number below `count` is the target of one position.
        count: of the places.
        batch: rows that are read together; the result does not depend on it.
    """
    assert isinstance(model.config.head, Labels)
    found = torch.empty(count, len(model.config.head.names))
    device = next(model.parameters()).device
    for each in batches_of(rows, batch):
        pulse()
        moved = each.to(device)
        places = moved.targets != IGNORED
        found[each.targets[places.cpu()]] = (
            model.logits_of(read(model, moved)[places]).float().cpu()
        )
    return found
