"""Models that judge: what Hugging Face calls a family whose head gives a number a label.

Knows: names of classes and tensors, and where config.json keeps the labels. A family that judges
is the family with other rows for its head.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from yantai.base.errors import ModelFileError, UsageError
from yantai.families.rules import Computed, Family, Fixed, Renamed

Job = Literal["classify", "tag", "span"]
SEVERAL = "multi_label_classification"


@dataclass(frozen=True)
class Judge:
    """How a family's model for one job is written.

    Attributes:
        architecture: the class of `transformers`.
        out: their name of the matrix that has a row a label.
        dense: of the layer before it, if there is one.
        bias: whether the matrix has one.
        body: beginnings of names that are others there than with a language model's head.
    """

    architecture: str
    out: str
    dense: str = ""
    bias: bool = True
    body: Mapping[str, str] = field(default_factory=dict)


def _judges() -> dict[tuple[str, Job], Judge]:
    head = "classification_head"
    whole = {"shared.": "transformer.shared."} | {
        f"{side}.": f"transformer.{side}." for side in ("encoder", "decoder")
    }
    table: dict[tuple[str, Job], Judge] = {
        ("bert", "classify"): Judge(
            "BertForSequenceClassification", "classifier", "bert.pooler.dense"
        ),
        ("roberta", "classify"): Judge(
            "RobertaForSequenceClassification", "classifier.out_proj", "classifier.dense"
        ),
        ("gpt2", "classify"): Judge("GPT2ForSequenceClassification", "score", bias=False),
        ("gpt2", "tag"): Judge("GPT2ForTokenClassification", "classifier"),
        ("bart", "classify"): Judge(
            "BartForSequenceClassification", f"{head}.out_proj", f"{head}.dense"
        ),
    }
    for name, title in (("bert", "Bert"), ("roberta", "Roberta")):
        table[name, "tag"] = Judge(f"{title}ForTokenClassification", "classifier")
    for name, title in (("t5", "T5"), ("mt5", "MT5")):
        table[name, "classify"] = Judge(
            f"{title}ForSequenceClassification", f"{head}.out_proj", f"{head}.dense", body=whole
        )
    decoders = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    for name, title in decoders.items():
        table[name, "classify"] = Judge(f"{title}ForSequenceClassification", "score", bias=False)
        table[name, "tag"] = Judge(f"{title}ForTokenClassification", "score")
        old = {"model.": "transformer."} if name != "mistral" else {}
        table[name, "span"] = Judge(f"{title}ForQuestionAnswering", "qa_outputs", body=old)
    others = {"bert": "Bert", "roberta": "Roberta", "gpt2": "GPT2", "bart": "Bart", "t5": "T5"}
    for name, title in (others | {"mt5": "MT5"}).items():
        table[name, "span"] = Judge(f"{title}ForQuestionAnswering", "qa_outputs")
    for name in ("rnn", "lstm", "gru"):
        table[name, "classify"] = Judge(f"{name.upper()}ForClassification", "head")
        table[name, "tag"] = Judge(f"{name.upper()}ForTagging", "head")
    return table


JUDGES = _judges()
"""(family, job) → how it is written."""


def judging(family: Family, job: Job) -> Family:
    """The family whose models do a job.

    Raises:
        UsageError: there is no such model, neither there nor here.
    """
    if (family.name, job) not in JUDGES:
        able = [name for name, known in JUDGES if known == job]
        raise UsageError(
            "E203", "family", f"{family.name} has no model for {job}",
            expected=", ".join(able), do="choose another model",
        )  # fmt: skip
    judge = JUDGES[family.name, job]
    if not family.tensors:  # in our own form, where config.json holds the head as it is
        return replace(family, architecture=judge.architecture, job=job)
    tensors = []
    for row in family.tensors:
        if isinstance(row, Renamed) and row.ours.startswith("head."):
            continue
        theirs = row.theirs
        for before, now in judge.body.items():
            if theirs.startswith(before):
                theirs = now + theirs.removeprefix(before)
                break
        tensors.append(replace(row, theirs=theirs))
    tensors += [Renamed(f"head.{kind}", f"{judge.out}.{kind}") for kind in ("weight", "bias")]
    if judge.dense:
        tensors += [
            Renamed(f"head.transform.{kind}", f"{judge.dense}.{kind}")
            for kind in ("weight", "bias")
        ]
    config = [row for row in family.config if not (isinstance(row, Fixed) and row.ours == "head")]
    ignored = [row for row in family.ignored if not re.match(row, f"{judge.dense}.weight")]
    return replace(
        family,
        architecture=judge.architecture,
        config=(*config, *_labels_rows(judge, job)),
        tensors=tuple(tensors),
        constants=(),  # of their language model's head
        job=job,
        prefix=judge.body.get(family.prefix, family.prefix),
        ignored=tuple(ignored),
    )


def _labels_rows(judge: Judge, job: Job) -> tuple[Computed, ...]:
    """The labels in config.json, and whether several of them may hold."""

    def read(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        ours["head"] = {
            "names": _names(theirs, where),
            "dense": bool(judge.dense),
            "bias": judge.bias,
            "several": theirs.get("problem_type") == SEVERAL,
            "refuses": theirs.get("may_refuse") if job == "span" else None,
        }

    def names(config: Any) -> dict[str, str]:
        return {str(number): name for number, name in enumerate(config.head.names)}

    def numbers(config: Any) -> dict[str, int]:
        return {name: number for number, name in enumerate(config.head.names)}

    def problem(config: Any) -> str:
        return SEVERAL if config.head.several else "single_label_classification"

    def refuses(config: Any) -> bool | None:
        return config.head.refuses

    rows = (Computed("id2label", names, read), Computed("label2id", numbers, lambda *_: None))
    if job == "classify":
        rows += (Computed("problem_type", problem, lambda *_: None),)
    if job == "span":  # a word of ours; `transformers` keeps what it does not know
        rows += (Computed("may_refuse", refuses, lambda *_: None),)
    return rows


def _names(theirs: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Of the labels, in their order; two where the file says nothing, as `transformers` has it."""
    given = theirs.get("id2label")
    if given is None:
        count = theirs.get("num_labels", 2)
        if type(count) is not int or not 1 <= count <= 100_000:
            raise ModelFileError(
                "E401", f"{where}:num_labels", "out of range", expected="1 to 100000", got=count
            )
        return tuple(f"LABEL_{number}" for number in range(count))
    fine = isinstance(given, dict) and all(isinstance(name, str) for name in given.values())
    if not fine or set(given) != {str(number) for number in range(len(given))} or not given:
        raise ModelFileError(
            "E401", f"{where}:id2label", "not a table of names",
            expected="{\"0\": …, \"1\": …} without a gap", got=str(given)[:80],
        )  # fmt: skip
    return tuple(given[str(number)] for number in range(len(given)))


def job_of(theirs: Mapping[str, Any], family: Family) -> Job | None:
    """What a config.json says that the model does; None for a language model."""
    given = theirs.get("architectures")
    named = given[0] if isinstance(given, list) and given else None
    for (name, job), judge in JUDGES.items():
        if name == family.name and judge.architecture == named:
            return job
    return None
