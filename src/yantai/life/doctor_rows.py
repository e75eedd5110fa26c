"""Before a fine-tuning: what in the rows and in the recipe would spoil it in silence.

Knows: the mistakes that bite, each with the file and the line of its first case. What cannot be
read at all is an error of the reader, named as it would be when it stopped the run.
"""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError, YantaiError
from yantai.base.log import counted
from yantai.data.batch import IGNORED
from yantai.data.conversations import Conversation
from yantai.families.hub import local_folder
from yantai.life.doctor_case import Finding
from yantai.life.doctor_jobs import look_at_job
from yantai.life.doctor_memory import memory_of_finetuning
from yantai.life.doctor_parts import look_beside
from yantai.life.doctor_single import look_at_single_rows
from yantai.life.doctor_texts import look_at_texts
from yantai.life.first_looks import key_of, odd_rates, rows_in_both
from yantai.life.jobs import JOBS
from yantai.life.jobs.job import Job
from yantai.life.rows import named_parts
from yantai.metrics.near import near_pairs
from yantai.text.chat import ChatFormat
from yantai.text.tokenizer import TURN_END, Tokenizer
from yantai.training.recipe import Finetune
from yantai.training.setup import fill_in

Parts = dict[str, list[Any]]
FEW_ROWS, RARE, MOST_SHARE, CUT_SHARE = 50, 5, 0.9, 0.05
LONG_LABEL, MANY_LABELS = 40, 0.5
MOST_BAD = 0.02
USUAL_CONTEXT = 128


def examine_rows(settings: Finetune, name: str) -> list[Finding]:
    """Everything that is known to bite, for the rows and the recipe of a fine-tuning.

    Args:
        settings: the recipe.
        name: of its file.
    """
    job = JOBS[settings.task](settings)
    findings = [("ok", f"{name}: every key is known"), *odd_rates(settings)]
    memory = memory_of_finetuning(settings, job)
    findings += [memory] if memory is not None else []
    parts: Parts = {}
    for part, path in (
        ("train", settings.data),
        ("valid", settings.valid),
        ("test", settings.test),
    ):
        if path is None:
            continue
        found, rows = _read(settings, job, path)
        findings += found
        if rows:
            parts[part] = rows
    files: dict[str, Path | None] = {
        "train": settings.data, "valid": settings.valid, "test": settings.test,
    }  # fmt: skip
    if settings.split_column is not None and "train" in parts:
        files |= dict.fromkeys(files, settings.data)
        found, parts = _by_column(settings, parts["train"])
        findings += found
    if "train" not in parts:
        return findings
    looks: list[Callable[[Job, Parts, dict[str, Path | None]], Iterator[Finding]]] = [
        _few, _twice, _leaks, _labels, _swapped, _told_in_text, _same_texts,
    ]  # fmt: skip
    for look in looks:
        findings += look(job, parts, files)
    findings += look_at_job(settings, job, parts["train"])
    findings += look_at_texts(job.name, parts["train"])
    findings += look_at_single_rows(job.name, parts["train"])
    findings += look_beside(settings, job, parts, text_that_is_read(job))
    findings += _tokens(settings, job, parts["train"])
    return findings


def text_that_is_read(job: Job) -> Callable[[Any], str]:
    """What of a row stands before the model when it is asked."""
    return lambda row: row.source if hasattr(row, "source") else job.text_of(row)


def _read(settings: Finetune, job: Job, path: Path) -> tuple[list[Finding], list[Any]]:
    given: dict[str, Any] = {"columns": settings.columns or None, "encoding": settings.encoding}
    try:
        rows, _ = job.read(path, policy="stop", **given)
    except YantaiError as error:
        return _bad_rows(settings, job, path, error, given)
    return [("ok", f"{path}: {counted(len(rows), 'row')}")], rows


def _by_column(settings: Finetune, rows: list[Any]) -> tuple[list[Finding], Parts]:
    """Rows by the part that a column names."""
    try:
        with tempfile.TemporaryDirectory(prefix="yantai-doctor-") as folder:
            parts = named_parts(settings, rows, Path(folder))
    except YantaiError as error:
        return [("problem", f"[{error.code}] {error}")], {}
    told = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    if "train" not in parts:
        line = f"no row is for training ({told or 'none at all'})"
        return [("problem", f"{settings.data}: {line}")], {}
    return [("ok", f"{settings.data}: {told}, by the column {settings.split_column!r}")], parts


def _bad_rows(
    settings: Finetune, job: Job, path: Path, error: YantaiError, given: dict[str, Any]
) -> tuple[list[Finding], list[Any]]:
    """How many there are beside the first one, and the rows that are left without them."""
    with tempfile.TemporaryDirectory(prefix="yantai-doctor-") as folder:
        try:
            rows, account = job.read(
                path, policy="quarantine", quarantine=Path(folder) / "rows", **given
            )
        except YantaiError:  # it is not a row that is bad
            return [("problem", f"[{error.code}] {error}")], []
    bad = sum(account.quarantined.values())
    kept_back = settings.on_bad_row == "quarantine"
    line = f"{bad:,} of {account.rows_in:,} rows are bad"
    line += " and would be kept back" if kept_back else ", and the run would stop"
    serious = not kept_back or bad > MOST_BAD * account.rows_in
    first = f"the first: [{error.code}] {error.where}: {error.what}"
    if error.do and "encoding" in error.do:
        first += f" ({error.do})"
    findings = [("problem" if serious else "note", f"{path}: {line}; {first}")]
    if rows:
        findings.append(("ok", f"{path}: {counted(len(rows), 'row')} left"))
    return findings, rows


def _few(job: Job, parts: Parts, files: dict[str, Path | None]) -> Iterator[Finding]:
    for part, rows in parts.items():
        if len(rows) < FEW_ROWS:
            yield (
                "note",
                f"{files[part]}: only {counted(len(rows), 'row')}; a score will mean little",
            )


def _twice(job: Job, parts: Parts, files: dict[str, Path | None]) -> Iterator[Finding]:
    """Rows that stand twice in a part, and the same text under two labels."""
    for part, rows in parts.items():
        groups = defaultdict(list)
        for row in rows:
            groups[key_of(job.text_of(row))].append(row)
        again = [group for group in groups.values() if len(group) > 1]
        apart = [group for group in again if len({row.labels for row in group}) > 1]
        if again and not job.together:
            count = sum(len(group) - 1 for group in again)
            first, second = again[0][:2]
            line = f"{count:,} rows stand there more than once, such as {first.place}"
            yield ("note", f"{files[part]}: {line} and {second.place}")
        if apart and not job.together:
            one = apart[0][0]
            other = next(row for row in apart[0] if row.labels != one.labels)
            line = f"{counted(len(apart), 'text')} with two different labels, such as {one.place}"
            yield ("problem", f"{files[part]}: {line} and {other.place}")


def _leaks(job: Job, parts: Parts, files: dict[str, Path | None]) -> Iterator[Finding]:
    """Texts of the validation or test part that training has too, exactly or nearly."""
    yield from rows_in_both(job, parts, files)
    train = parts["train"]
    known = {key_of(job.text_of(row)) for row in train}
    for part in ("valid", "test"):
        rest = [row for row in parts.get(part, []) if key_of(job.text_of(row)) not in known]
        pairs = near_pairs([job.text_of(row) for row in rest], [job.text_of(row) for row in train])
        if pairs:
            mine, theirs = pairs[0]
            be = "is nearly one" if len(pairs) == 1 else "are nearly those"
            line = f"{counted(len(pairs), 'row')} {be} of the training part, such as"
            places = f"{rest[mine].place}, which is nearly {train[theirs].place}"
            yield ("problem", f"{files[part]}: {line} {places}")


def _labels(job: Job, parts: Parts, files: dict[str, Path | None]) -> Iterator[Finding]:
    """One class, a rare class, one that drowns the others, one that training has not."""
    if job.together:
        return
    counts = Counter(label for row in parts["train"] for label in row.labels)
    if job.name == "classify":
        total = sum(counts.values())
        most, number = counts.most_common(1)[0] if counts else ("", 0)
        if len(counts) < 2:
            yield ("problem", f"{files['train']}: one class only, {most!r}")
        elif number / total > MOST_SHARE:
            line = f"{number / total:.0%} of the rows are {most!r}: look at macro F1, not accuracy"
            yield ("note", f"{files['train']}: {line}")
    rare = [label for label, number in counts.items() if number < RARE]
    if rare and len(counts) > 1:
        row = next(row for row in parts["train"] if rare[0] in row.labels)
        line = f"{len(rare)} labels have fewer than {RARE} rows, such as {rare[0]!r} at {row.place}"
        yield ("note", f"{files['train']}: {line}")
    close = defaultdict(set)
    for label in counts:
        close[label.casefold().strip()].add(label)
    for names in close.values():
        if len(names) > 1:
            shown = " and ".join(repr(name) for name in sorted(names))
            odd = min(names, key=lambda name: counts[name])
            row = next(row for row in parts["train"] if odd in row.labels)
            yield ("problem", f"{files['train']}: labels that differ in case: {shown}, {row.place}")
    for part in ("valid", "test"):
        for row in parts.get(part, []):
            new = [label for label in row.labels if label not in counts]
            if new:
                yield ("problem", f"{files[part]}: {row.place}: training has no label {new[0]!r}")
                break


def _swapped(job: Job, parts: Parts, files: dict[str, Path | None]) -> Iterator[Finding]:
    """Labels that look like texts."""
    if job.name != "classify":
        return
    rows = parts["train"]
    labels = [row.labels[0] for row in rows if row.labels]
    distinct = len(set(labels)) / max(1, len(labels))
    longest = max(map(len, labels), default=0)
    texts = len({job.text_of(row) for row in rows}) / len(rows)
    if len(rows) > 10 and distinct > MANY_LABELS and (longest > LONG_LABEL or texts < distinct):
        line = "nearly every row has a label of its own: are the columns swapped?"
        yield ("problem", f"{files['train']}: {rows[0].place}: {line}")


def _told_in_text(job: Job, parts: Parts, files: dict[str, Path | None]) -> Iterator[Finding]:
    """A text that says its label: a model would learn to read that."""
    if job.name != "classify":
        return
    told = [
        row
        for row in parts["train"]
        if any(
            re.search(
                rf"(label|class|标签|类别)\s*[:=：]\s*{re.escape(label)}", row.text, re.IGNORECASE
            )
            for label in row.labels
        )
    ]
    if told:
        line = f"{len(told):,} texts say their own label, such as {told[0].place}"
        yield ("problem", f"{files['train']}: {line}")


def _same_texts(job: Job, parts: Parts, files: dict[str, Path | None]) -> Iterator[Finding]:
    """A target that is its source."""
    rows = [row for row in parts["train"] if hasattr(row, "target")]
    same = [row for row in rows if key_of(row.source) == key_of(row.target)]
    if same:
        line = f"{len(same):,} targets are their own source, such as {same[0].place}"
        yield ("problem", f"{files['train']}: {line}")


def _tokens(settings: Finetune, job: Job, rows: Sequence[Any]) -> Iterator[Finding]:
    """What a model's tokenizer makes of the rows; one from scratch has none yet."""
    if settings.model == "scratch":
        return
    folder = local_folder(settings.model)
    tokenizer = Tokenizer.load(folder)
    yield from _special_tokens(tokenizer, folder)
    limit = fill_in(settings).context or USUAL_CONTEXT
    encoded = tokenizer.encode_batch([job.text_of(row) for row in rows])
    yield from _unknown(tokenizer, encoded, folder, settings.data)
    sizes = [len(ids) for ids in encoded]
    cut = [row for row, size in zip(rows, sizes, strict=True) if size > limit - 2]
    if len(cut) / len(rows) > CUT_SHARE and job.name not in ("tag", "span"):
        line = f"{len(cut) / len(rows):.0%} of the texts are longer than {limit} tokens and are cut"
        yield ("note", f"{settings.data}: {line}, such as {cut[0].place}; raise --context")
    if rows and isinstance(rows[0], Conversation):
        yield from _conversations(tokenizer, rows, limit, settings.data)


def _unknown(
    tokenizer: Tokenizer, rows: Sequence[Sequence[int]], folder: Path, data: Path
) -> Iterator[Finding]:
    """Texts in a script that the vocabulary has not."""
    name = tokenizer.settings.get("unk_token")
    unknown = tokenizer.control.get(name.get("content") if isinstance(name, dict) else name or "")
    if unknown is None:
        return
    share = sum(list(row).count(unknown) for row in rows) / max(1, sum(map(len, rows)))
    if share > CUT_SHARE:
        line = f"{share:.0%} of the tokens of {data} are unknown to it"
        yield ("problem", f"{folder / 'tokenizer.json'}: {line}: take another model")


def _special_tokens(tokenizer: Tokenizer, folder: Path) -> Iterator[Finding]:
    where = folder / "tokenizer.json"
    if tokenizer.eos_id is None:
        yield ("problem", f"{where}: no end token: the model cannot learn to stop")
    ends = {"the end token": tokenizer.eos_id, f"{TURN_END}": tokenizer.control.get(TURN_END)}
    for name, id in ends.items():
        if tokenizer.pad_id is not None and tokenizer.pad_id == id:
            line = f"padding is {name}; here it is masked by place, elsewhere it may not be"
            yield ("note", f"{where}: {line}")
            break
    begin = tokenizer.prompt("a")
    if tokenizer.bos_id is not None and begin[:2] == [tokenizer.bos_id] * 2:
        yield ("problem", f"{where}: a text begins with two BOS tokens")


def _conversations(
    tokenizer: Tokenizer, rows: Sequence[Conversation], limit: int, path: Path
) -> Iterator[Finding]:
    """The masks of what is learned, as the renderer makes them."""
    try:
        chat = ChatFormat(tokenizer)
        rendered, refused = _rendered(chat, rows)
    except YantaiError as error:
        yield ("problem", f"[{error.code}] {error}")
        return
    if refused:
        gone = {id(row) for row, _ in refused}
        rows = [row for row in rows if id(row) not in gone]
        error = refused[0][1]
        count = f"; so in {counted(len(refused), 'row')}"
        yield ("problem", f"[{error.code}] {error.where}: {error.what}{count}")
    if _ignores_prompts(chat):
        line = "the template has no {% generation %} and does not end with the assistant's turn"
        yield ("note", f"{line} when asked to: the words before an answer are learned, too")
    ends = {tokenizer.eos_id, tokenizer.control.get(TURN_END)}
    for row, each in zip(rows, rendered, strict=True):
        if tokenizer.bos_id is not None and each.ids[:2] == [tokenizer.bos_id] * 2:
            yield ("problem", f"{path}: {row.place}: the template begins with two BOS tokens")
            break
    unlearned = [
        row
        for row, each in zip(rows, rendered, strict=True)
        if not ends & {id for id, learned in zip(each.ids, each.learn, strict=True) if learned}
    ]
    if unlearned:
        line = f"{len(unlearned):,} answers end without a learned end token"
        yield ("problem", f"{path}: {line}, such as {unlearned[0].place}: the model would not stop")
    lost = [
        row
        for row, each in zip(rows, rendered, strict=True)
        if all(target == IGNORED for target in _learned(each, limit))
    ]
    if lost:
        line = f"{len(lost):,} answers lie behind the first {limit} tokens"
        yield ("problem", f"{path}: {line}, such as {lost[0].place}: nothing would be learned")


def _rendered(
    chat: ChatFormat, rows: Sequence[Conversation]
) -> tuple[list[Any], list[tuple[Conversation, DataError]]]:
    """What can be rendered, and the rows that the template refuses."""
    found, refused = [], []
    for row in rows:
        try:
            found.append(chat.training_row(row.messages, row.place))
        except DataError as error:
            refused.append((row, error))
    return found, refused


def _ignores_prompts(chat: ChatFormat) -> bool:
    """Whether a prompt is no different with the beginning of an answer and without."""
    asked = [{"role": "user", "content": "Who?"}]
    if chat.marks_generation:
        return False
    return chat.render(asked, reply=True).text == chat.render(asked).text


def _learned(rendered: Any, limit: int) -> list[int]:
    pairs = zip(rendered.ids[: limit + 1], rendered.learn[: limit + 1], strict=True)
    return [id if learned else IGNORED for id, learned in pairs][1:]
