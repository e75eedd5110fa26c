"""What `finetune` asks of a job; each lives in a file of its own.

Knows: the questions, and what heads of labels have in common.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from yantai.base.errors import UsageError
from yantai.base.log import say
from yantai.core.face import Model
from yantai.data.examples import ExampleRows
from yantai.data.labelled import HasLabels
from yantai.data.pairs import Pair, read_pairs
from yantai.families.labels import judging
from yantai.families.rules import Family
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.tasks.frame import Frame
from yantai.tasks.task import Task
from yantai.text.vocabulary import Kind
from yantai.training.network import with_labels
from yantai.training.recipe import Finetune

NOBODY: Mapping[str, Any] = {}
WORST = 20


class Placed(Protocol):
    """A row that knows where it stands."""

    @property
    def place(self) -> str:
        """`file:line`."""
        ...


R = TypeVar("R", bound=Placed)


@dataclass(frozen=True)
class Prepared:
    """What the trainer needs."""

    task: Task
    train: ExampleRows
    valid: ExampleRows


class Job(Protocol):
    """A job that a model can be taught. Rows are the job's own kind."""

    @property
    def name(self) -> str:
        """As in --task."""
        ...

    @property
    def together(self) -> bool:
        """Whether rows with the same labels must stay in one part, not be spread over all."""
        ...

    @property
    def judges(self) -> bool:
        """Whether validations are scored; else their loss says which model is the best."""
        ...

    @property
    def usual_family(self) -> str:
        """Of a model from scratch."""
        ...

    @property
    def usual_kind(self) -> Kind:
        """Of the tokenizer of a model from scratch."""
        ...

    @property
    def least_text(self) -> int:
        """So many bytes of its rows' own text are worth reading before a model from scratch learns
        the job; 0: any number is."""
        ...

    def read(self, path: Path, **options: Any) -> tuple[list[Any], Any]:
        """The rows of a file, and the account of what became of each."""
        ...

    def learn(self, rows: Sequence[Any], path: Path) -> None:
        """Remember what the training rows say of all others: the names of labels."""
        ...

    def check(self, rows: Sequence[Any]) -> None:
        """Refuse rows that training does not know."""
        ...

    def text_of(self, row: Any) -> str:
        """What is read in it."""
        ...

    def check_family(self, family: Family) -> None:
        """Refuse a family that has no model for it."""
        ...

    def network(self, model: Model, family: Family, settings: Finetune) -> tuple[Model, Family]:
        """The model to train, out of the one to begin with, and how its folder is written."""
        ...

    def prepare(
        self, frame: Frame, train: Sequence[Any], valid: Sequence[Any], seed: int
    ) -> Prepared:
        """Rows as examples."""
        ...

    def unfit(self, frame: Frame) -> Callable[[Any], str]:
        """Of a row: why a model that reads so can learn or score nothing of it; "" if it can."""
        ...

    def predict(self, network: Model, frame: Frame, rows: Sequence[Any]) -> Any:
        """What the model says of rows."""
        ...

    def scores(self, rows: Sequence[Any], said: Any) -> dict[str, float]:
        """How good that is; the first score decides which model is the best."""
        ...

    def look_before(self, network: Model, frame: Frame, test: Sequence[Any]) -> None:
        """Measure the model that has not learned yet, where that is what has to be beaten.

        `test` is empty while something is searched.
        """
        ...

    def report(
        self,
        train: Sequence[Any],
        test: Sequence[Any],
        said: Any,
        seed: int,
        others: Mapping[str, Any] = NOBODY,
    ) -> dict[str, Any]:
        """The same of the test rows with intervals, beside what anybody has to beat.

        Args:
            train: what somebody simple may learn from; there may be none.
            test: the rows.
            said: what the model says of them.
            seed: of the bootstrap.
            others: what other models say of them, by their names.
        """
        ...

    def worst(self, rows: Sequence[Any], said: Any) -> list[dict[str, str]]:
        """The rows of which the model was most wrong, as tables of texts: `text` and what else."""
        ...

    def adopt(self, model: LanguageModel, rows: Sequence[Any]) -> None:
        """Know what a taught model knows, in place of learning it from training rows."""
        ...


class LabelJob:
    """What jobs with a head of labels have in common."""

    name: Any
    names: tuple[str, ...] = ()
    several = False
    refuses: bool | None = None
    together = False
    judges = True
    usual_family = "bert"
    usual_kind: Kind = "bpe"
    least_text = 0

    def unfit(self, frame: Frame) -> Callable[[Any], str]:
        """What is left of a long one is judged."""
        return lambda row: ""

    def look_before(self, network: Model, frame: Frame, test: Sequence[Any]) -> None:
        """A new head knows nothing."""

    def adopt(self, model: LanguageModel, rows: Sequence[Any]) -> None:
        """Its labels."""
        labels = model.network.head.labels
        assert labels is not None
        self.names, self.several = labels.names, labels.several

    def check_family(self, family: Family) -> None:
        """Refuse a family that has no such head."""
        judging(family, self.name)

    def network(self, model: Model, family: Family, settings: Finetune) -> tuple[Model, Family]:
        """The body with a head; it goes on where it judged by the same labels before."""
        known, judged = model.head.labels, family.job
        family = family_named(family.name)
        judge = judging(family, self.name)
        network = with_labels(
            model, self.names, family, job=self.name, several=self.several,
            refuses=self.refuses,
            dropout=settings.dropout if "dropout" in settings.model_fields_set else None,
            seed=settings.seed,
        )  # fmt: skip
        same = known is not None and (known.names, known.several) == (self.names, self.several)
        if same and judged == self.name:
            network.head.load_state_dict(model.head.state_dict())
        return network, judge


class LanguageJob:
    """What jobs that keep a language model's head have in common."""

    name: str
    usual_family: str
    usual_kind: Kind = "bpe"
    shapes: tuple[str, ...] = ("decoder",)
    together = True
    judges = False
    least_text = 0

    def learn(self, rows: Sequence[Any], path: Path) -> None:
        """There is nothing to know before."""

    def check(self, rows: Sequence[Any]) -> None:
        """Any row will do."""

    def check_family(self, family: Family) -> None:
        """Refuse a family of another shape than those that can do it."""
        shape = family.fixed()["shape"]
        if shape not in self.shapes:
            raise UsageError(
                "E203", "family", f"{family.name} is not made to {self.name}",
                expected=" or ".join(self.shapes), got=shape,
                do=f"choose --family {self.usual_family}",
            )  # fmt: skip

    def network(self, model: Model, family: Family, settings: Finetune) -> tuple[Model, Family]:
        """The model as it is.

        Raises:
            UsageError: it judges and writes nothing; or a dropout was given, which it decides.
        """
        self.check_family(family)
        if family.job:
            raise UsageError(
                "E203", "model", f"is made for {family.job} and writes nothing",
                do="begin with a language model",
            )  # fmt: skip
        if settings.dropout and settings.dropout != model.config.dropout:
            raise UsageError("E203", "dropout", "is decided by the model", do="leave it out")
        return model, family

    def unfit(self, frame: Frame) -> Callable[[Any], str]:
        """There is room for what is to be written."""
        return lambda row: ""

    def scores(self, rows: Sequence[Any], said: Any) -> dict[str, float]:
        """None: while training, the loss says which model is the best."""
        return {}

    def look_before(self, network: Model, frame: Frame, test: Sequence[Any]) -> None:
        """What it has to beat is something else."""

    def adopt(self, model: LanguageModel, rows: Sequence[Any]) -> None:
        """There is nothing to know before."""


class PairJob(LanguageJob):
    """What jobs whose rows are two texts have in common."""

    def __init__(self, settings: Finetune):
        self.name = settings.task
        self.source = settings.text_column
        self.target = settings.label_column or "target"
        self.smoothing = settings.label_smoothing

    def read(self, path: Path, **options: Any) -> tuple[list[Pair], Any]:
        """Rows of a table."""
        return read_pairs(path, self.source, self.target, **options)

    def text_of(self, row: Pair) -> str:
        """Both texts, so that a model from scratch has read what it is to write."""
        return f"{row.source}\n{row.target}"


def worst_rows(
    rows: Sequence[R], wrong: Sequence[float], describe: Callable[[R, int], dict[str, str]]
) -> list[dict[str, str]]:
    """Those that are most wrong, the worst first; none that are right.

    Args:
        rows: all.
        wrong: how wrong each is; 0 or less is right.
        describe: a row and its number → what is shown of it; its place is added.
    """
    order = sorted(range(len(rows)), key=lambda at: -wrong[at])[:WORST]
    return [describe(rows[at], at) | {"row": rows[at].place} for at in order if wrong[at] > 0]


def say_inside_tokens(count: int, of: int, what: str) -> None:
    """Tell how many pieces of texts the tokenizer does not let a model name exactly."""
    if count:
        say(
            f"{count:,} of {of:,} {what} begin or end inside a token and cannot be found exactly: "
            "a tokenizer for which a Han character is a word (from scratch --token-kind wordpiece) "
            "has no such tokens"
        )


def kinds_of(rows: Sequence[HasLabels]) -> tuple[str, ...]:
    """All labels that occur, in the order of their names."""
    return tuple(sorted({label for row in rows for label in row.labels}))
