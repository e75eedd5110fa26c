"""What in the rows of one job, or in its recipe, would spoil it in silence.

Knows: mistakes that belong to a job: spans beside their words, answers cut off, pairs out of step,
a phrase that gives a label away. Each look gives findings with the place of the first case.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from yantai.base.log import counted
from yantai.life.doctor_case import MANY, SOME, Case, Finding, share_of
from yantai.life.doctor_pairs import (
    cut_targets,
    lengths_out_of_step,
    one_target,
    out_of_step,
)
from yantai.life.finetune import EPOCHS, EXAMPLES_A_STEP, LEAST_STEPS
from yantai.life.jobs.job import Job
from yantai.training.recipe import Finetune
from yantai.training.sizes import size_named

FEW_STEPS = 30
BYTES_A_TOKEN = 3.5
"""Of a vocabulary that was learned from the rows, roughly, in both languages."""
GIVES_AWAY, ELSEWHERE, OFTEN, PHRASE = 0.8, 0.02, 12, 3
"""A phrase of so many words in most rows of a label, and in hardly any other row."""
SEPARATORS = (";", "|", ",", "/", "、", "，", "；")
CONTROL = re.compile(
    r"<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|^(?:### )?(?:Human|Assistant|User):", re.M
)


def look_at_job(settings: Finetune, job: Job, train: Sequence[Any]) -> Iterator[Finding]:
    """Everything that is known to bite, for this job."""
    case = Case(settings, job, train)
    yield from _steps(case)
    yield from _adapters(case)
    for look in LOOKS.get(job.name, ()):
        yield from look(case)
    if job.name in ("chat", "prefer", "translate", "summarize", "classify"):
        yield from _control_marks(case)


def steps_of(settings: Finetune, job: Job, rows: Sequence[Any]) -> float | None:
    """About how many steps a run takes; None where a clock says it."""
    if settings.steps or settings.minutes:
        return settings.steps
    size = size_named(settings.size)
    a_step = (settings.batch or size.batch) * (settings.context or size.context)
    if settings.tokens:
        return settings.tokens / a_step / settings.accumulate
    learned = (settings.epochs or EPOCHS) * (0.8 if settings.test is None else 1.0)
    if job.judges and settings.batch is None:
        return learned * len(rows) / EXAMPLES_A_STEP / settings.accumulate
    tokens = sum(len(job.text_of(row).encode()) for row in rows) / BYTES_A_TOKEN
    steps = learned * tokens / a_step / settings.accumulate
    return max(steps, LEAST_STEPS) if settings.batch is None else steps


def _steps(case: Case) -> Iterator[Finding]:
    """So few steps that nothing can be learned."""
    given = case.settings
    chosen = given.batch is not None or given.accumulate > 1
    if given.minutes or given.steps or given.tokens or not chosen:
        return  # who chooses no batch gets one that suits the rows
    steps = steps_of(given, case.job, case.train)
    if steps is not None and steps < FEW_STEPS:
        key = "accumulate" if given.accumulate > 1 else "batch"
        line = f"about {counted(max(1, round(steps)), 'step')} in all: too few to learn from"
        yield ("problem", f"{key}: {line}; lower it or raise epochs")


def _adapters(case: Case) -> Iterator[Finding]:
    given = case.settings
    if given.lora and given.model == "scratch" and not given.pretrain_minutes:
        if given.pretrain_minutes is None:
            line = "adapters beside a body that has read no more than the rows' own texts"
            yield ("note", f"lora: {line}; from scratch the whole model learns better")
        else:
            yield ("problem", "lora: adapters beside random weights, which would stand still")


def _separators(case: Case) -> Iterator[Finding]:
    """Labels that are joined by something else than the recipe says."""
    given = case.settings.label_separator
    joined = [row for row in case.train if len(row.labels) > 1]
    if given is None or joined:
        return
    for mark in SEPARATORS:
        rows = [row for row in case.train if any(mark in label for label in row.labels)]
        if mark != given and share_of(case, rows) > SOME:
            line = f"no label is cut at {given!r}, and {len(rows):,} have {mark!r} inside"
            yield ("problem", f"label_separator: {line}, such as {rows[0].place}")
            return


def _header(case: Case) -> Iterator[Finding]:
    """The names of the columns as a row."""
    rows = case.train
    if not case.settings.columns or len(rows) < 3:
        return
    labels = Counter(label for row in rows for label in row.labels)
    first = min(rows, key=lambda row: int(re.sub(r"\D", "", row.place.rpartition(":")[2]) or 0))
    alone = all(labels[label] == 1 for label in first.labels)
    usual = sorted(len(row.text) for row in rows)[len(rows) // 2]
    if alone and first.labels and len(first.text) < max(8, usual // 4):
        line = f"the first row has a label of its own, {first.labels[0]!r}: is it the header?"
        yield ("problem", f"columns: {first.place}: {line} Leave columns out")


def _gives_away(case: Case) -> Iterator[Finding]:
    """A phrase that nearly all rows of a label have and hardly any other."""
    by_label: dict[str, list[Any]] = defaultdict(list)
    for row in case.train:
        for label in row.labels:
            by_label[label].append(row)
    has: dict[str, Counter[tuple[str, ...]]] = {}
    everywhere: Counter[tuple[str, ...]] = Counter()
    for label, rows in by_label.items():
        has[label] = Counter(phrase for row in rows for phrase in _phrases(row.text))
        everywhere.update(has[label])
    for label, phrases in has.items():
        own, others = len(by_label[label]), len(case.train) - len(by_label[label])
        if own < OFTEN or others < OFTEN:
            continue
        for phrase, count in phrases.most_common(50):
            elsewhere = everywhere[phrase] - count
            if count / own >= GIVES_AWAY and elsewhere / others <= ELSEWHERE:
                row = next(row for row in by_label[label] if phrase in _phrases(row.text))
                said = " ".join(phrase)
                line = f"{count} of {own} texts of {label!r} have {said!r}, {elsewhere} others do"
                yield ("problem", f"{row.place}: {line}: the model would learn that alone")
                break


def _phrases(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W\d_]+|\d+|[^\w\s]", text.casefold())
    if len(words) < 2 or re.search("[\u4e00-\u9fff]", text):
        words = list(text)
        return {tuple(words[at : at + 2 * PHRASE]) for at in range(len(words) - 2 * PHRASE + 1)}
    return {tuple(words[at : at + PHRASE]) for at in range(len(words) - PHRASE + 1)}


def _unmarked(case: Case) -> Iterator[Finding]:
    """Names that are marked in some rows and not in others."""
    marked = Counter(row.text[span.start : span.end] for row in case.train for span in row.spans)
    known = [name for name, count in marked.items() if count >= 2 and len(name) >= 2]
    if not known:
        return
    pattern = re.compile("|".join(re.escape(name) for name in sorted(known, key=len, reverse=True)))
    missed = []
    for row in case.train:
        inside = [(span.start, span.end) for span in row.spans]
        loose = [
            found
            for found in pattern.finditer(row.text)
            if _is_word(row.text, *found.span())
            and not any(start < found.end() and found.start() < end for start, end in inside)
        ]
        if loose:
            missed.append((row, loose[0][0]))
    bare = [pair for pair in missed if not pair[0].spans]
    if share_of(case, bare) > SOME:
        row, name = bare[0]
        line = f"{len(bare):,} rows have no span at all, though names of others stand in them"
        yield ("problem", f"{row.place}: {line}, such as {name!r}: was the marking left off?")
    elif share_of(case, missed) > MANY:
        row, name = missed[0]
        line = f"in {len(missed):,} rows a name is not marked that is marked elsewhere, {name!r}"
        yield ("note", f"{row.place}: {line}")


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether a piece begins and ends where words do; where none are spaced, it always does."""
    before = start > 0 and _joins(text[start - 1], text[start])
    behind = end < len(text) and _joins(text[end - 1], text[end])
    return not before and not behind


def _joins(left: str, right: str) -> bool:
    spaced = left < "\u2e80" and right < "\u2e80"  # below it no East Asian writing
    return spaced and left.isalnum() and right.isalnum()


def _cut_spans(case: Case) -> Iterator[Finding]:
    """Spans that begin or end inside a word."""
    cut = [
        (row, span)
        for row in case.train
        for span in row.spans
        if not _is_word(row.text, span.start, span.end)
        or row.text[span.start : span.end].strip() != row.text[span.start : span.end]
    ]
    rows = list({id(row): row for row, _ in cut}.values())
    if share_of(case, rows) > SOME:
        row, span = cut[0]
        shown = row.text[max(0, span.start - 3) : span.end + 3]
        line = f"in {len(rows):,} rows a span cuts a word, {row.text[span.start : span.end]!r} in"
        yield ("problem", f"{row.place}: {line} {shown!r}: {_which_end(cut)}")


def _which_end(cut: Sequence[tuple[Any, Any]]) -> str:
    """What is probably wrong with how places are counted: both ends are off, or one of them."""
    starts = sum(_inside(row.text, span.start) for row, span in cut)
    if starts < len(cut) / 2:
        return "does an end name the last character, not the one behind it?"
    return "are places counted from 1?"


def _inside(text: str, place: int) -> bool:
    return 0 < place < len(text) and _joins(text[place - 1], text[place])


def _cut_answers(case: Case) -> Iterator[Finding]:
    """Answers that are found inside another word."""
    cut = [
        row
        for row in case.train
        for text, start in row.answers
        if not _is_word(row.context, start, start + len(text))
    ]
    if share_of(case, cut) > SOME:
        row = cut[0]
        text, start = row.answers[0]
        shown = row.context[max(0, start - 5) : start + len(text) + 5]
        line = (
            f"in {len(cut):,} rows the answer begins or ends inside a word, {text!r} in {shown!r}"
        )
        yield ("problem", f"{row.place}: {line}: was its place searched for?")


def _contradictions(case: Case) -> Iterator[Finding]:
    """The same two answers, once one preferred and once the other."""
    known: dict[tuple[str, str, str], Any] = {}
    odd = []
    for row in case.train:
        asked = str(row.chosen[:-1])
        one, other = row.chosen[-1]["content"], row.rejected[-1]["content"]
        if (asked, other, one) in known:
            odd.append((row, known[asked, other, one]))
        known.setdefault((asked, one, other), row)
    if odd:
        row, before = odd[0]
        line = f"{len(odd):,} rows prefer what another one rejects"
        yield ("problem", f"{row.place}: {line}; this one contradicts {before.place}")


def _asked_again(case: Case) -> Iterator[Finding]:
    """Answers that begin with the question, as where a file's answers are whole conversations."""
    odd = []
    for row in case.train:
        asked = str(row.chosen[-2]["content"]).strip() if len(row.chosen) > 1 else ""
        said = [str(each[-1]["content"]) for each in (row.chosen, row.rejected)]
        if len(asked) > 5 and all(asked in text[: 2 * len(asked) + 40] for text in said):
            odd.append(row)
    if share_of(case, odd) > MANY:
        line = f"in {len(odd):,} rows both answers repeat the prompt"
        yield ("problem", f"{odd[0].place}: {line}: it would be said before every answer")


def _longer(case: Case) -> Iterator[Finding]:
    """The preferred answer is nearly always the longer one."""
    sizes = [
        (len(row.chosen[-1]["content"]), len(row.rejected[-1]["content"])) for row in case.train
    ]
    differ = [one > other for one, other in sizes if one != other]
    share = sum(differ) / max(1, len(differ))
    if len(differ) >= 50 and not 0.1 < share < 0.9:
        kind = "longer" if share > 0.5 else "shorter"
        line = f"the preferred answer is the {kind} one in {max(share, 1 - share):.0%} of the rows"
        yield ("note", f"{case.settings.data}: {line}: a model would learn the length")


def _swapped_roles(case: Case) -> Iterator[Finding]:
    """Conversations that the assistant begins."""
    odd = []
    for row in case.train:
        roles = [each["role"] for each in row.messages if each["role"] != "system"]
        if roles and roles[0] == "assistant":
            odd.append(row)
    if share_of(case, odd) > SOME:
        line = f"{len(odd):,} conversations begin with the assistant: are the roles exchanged?"
        yield ("problem", f"{odd[0].place}: {line}")


def _control_marks(case: Case) -> Iterator[Finding]:
    """Marks of some chat format inside the texts: plain text here, and it would be learned."""
    odd = [row for row in case.train if any(CONTROL.search(text) for text in _texts(row))]
    if odd:
        found = next(match[0] for text in _texts(odd[0]) if (match := CONTROL.search(text)))
        kind = "problem" if share_of(case, odd) > SOME else "note"
        line = f"{len(odd):,} rows have marks of a chat format in their texts, such as {found!r}"
        yield (kind, f"{odd[0].place}: {line}: they are plain text here, and would be learned")


def _texts(row: Any) -> list[str]:
    if hasattr(row, "messages"):
        return [each["content"] for each in row.messages]
    if hasattr(row, "chosen"):
        return [each["content"] for each in (*row.chosen, *row.rejected)]
    return [getattr(row, name) for name in ("text", "source", "target") if hasattr(row, name)]


LOOKS = {
    "classify": (_separators, _header, _gives_away),
    "tag": (_cut_spans, _unmarked),
    "span": (_cut_answers,),
    "translate": (out_of_step, lengths_out_of_step, cut_targets),
    "summarize": (out_of_step, cut_targets),
    "chat": (_swapped_roles,),
    "prefer": (_contradictions, _asked_again, _longer),
    "embed": (out_of_step, one_target),
}
