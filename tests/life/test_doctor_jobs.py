"""Each mistake of a job is named where it is, and rows without it are left in peace."""

import random
from pathlib import Path

import pytest

from yantai.data.conversations import Conversation
from yantai.data.labelled import Labelled
from yantai.data.pairs import Pair
from yantai.data.preferences import Preference
from yantai.data.questions import Question
from yantai.data.tagged import Tagged
from yantai.life.doctor_jobs import LOOKS, look_at_job
from yantai.life.jobs import JOBS
from yantai.text.spans import Span
from yantai.training.recipe import Finetune

NAMES = ["Ivan", "Anna", "Boris", "Vera", "Olga", "Semyon", "Marfa", "Pyotr"]
THINGS = ["goose", "lantern", "kettle", "letter", "ladder", "basket", "mirror", "drum"]
DEEDS = ["found", "sold", "lost", "mended", "hid", "painted", "carried", "broke"]


def sentences(count=120):
    """(name, deed, thing, number, sentence), all different."""
    dice = random.Random(5)
    for number in range(count):
        name, deed, thing = (dice.choice(each) for each in (NAMES, DEEDS, THINGS))
        where = dice.choice(["by the river", "at the mill", "behind the barn", "on the hill"])
        yield name, deed, thing, 17 + number, f"{name} {deed} {17 + number} {thing}s {where}."


def healthy(task):
    """Rows with nothing wrong."""
    rows = []
    for line, (name, deed, thing, number, text) in enumerate(sentences(), 2):
        place = f"rows.jsonl:{line}"
        start = text.index(thing)
        if task == "classify":
            rows.append(
                Labelled(text, ("loss" if deed in ("lost", "broke", "sold") else "gain",), place)
            )
        elif task == "tag":
            rows.append(Tagged(text, (Span(0, len(name), "person"),), place))
        elif task == "span":
            rows.append(
                Question("What?", text, ((thing + "s", start),), f"{line}", f"{line}", place)
            )
        elif task in ("translate", "summarize", "embed"):
            rows.append(
                Pair(text, f"{number} {thing}s: {name} {deed} them. ({'x' * (line % 7)})", place)
            )
        elif task == "chat":
            turns = ({"role": "user", "content": f"Who {deed} {number} {thing}s?"},
                     {"role": "assistant", "content": name})  # fmt: skip
            rows.append(Conversation(turns, place))
        else:
            asked = {"role": "user", "content": f"Who {deed} {number} {thing}s?"}
            said = [f"It was {name}, I think.", f"Nobody {deed} any."]
            random.Random(line).shuffle(said)
            pair = [(asked, {"role": "assistant", "content": each}) for each in said]
            rows.append(Preference(*pair, place))
    return rows


def found(task, rows, **settings):
    given = {"model": "body", "task": task, "data": Path("rows.jsonl"), "out": Path("run")}
    recipe = Finetune(**given | settings)
    return list(look_at_job(recipe, JOBS[task](recipe), rows))


def changed(row, **changes):
    fields = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return type(row)(**fields | changes)


@pytest.mark.parametrize("task", LOOKS)
def test_healthy_rows_are_left_in_peace(task):
    assert found(task, healthy(task)) == []


def joined_by_another_mark():
    rows = [changed(row, labels=(row.labels[0] + ";new",)) if n % 3 else row
            for n, row in enumerate(healthy("classify"))]  # fmt: skip
    return "classify", rows, {"label_separator": "|"}, "label_separator: no label is cut at"


def the_header_as_a_row():
    rows = [Labelled("text", ("label",), "rows.csv:1"), *healthy("classify")]
    return "classify", rows, {"columns": ("text", "label")}, "columns: rows.csv:1: the first row"


def a_phrase_gives_it_away():
    rows = [
        changed(row, text=row.text + " Sent from my phone.") if row.labels == ("loss",) else row
        for row in healthy("classify")
    ]
    return "classify", rows, {}, "the model would learn that alone"


def spans_from_one():
    rows = [changed(row, spans=(Span(1, row.spans[0].end + 1, "person"),)) if n % 2 else row
            for n, row in enumerate(healthy("tag"))]  # fmt: skip
    return "tag", rows, {}, "rows.jsonl:3: in 60 rows a span cuts a word"


def marking_left_off():
    rows = healthy("tag")
    rows[70:] = [changed(row, spans=()) for row in rows[70:]]
    return "tag", rows, {}, "rows.jsonl:72: 50 rows have no span at all"


def answers_inside_words():
    rows = healthy("span")
    rows[40:60] = [changed(row, answers=(("s", row.context.index("s ")),)) for row in rows[40:60]]
    return "span", rows, {}, "rows.jsonl:42: in 20 rows the answer begins or ends inside a word"


def too_few_steps():
    return (
        "span",
        healthy("span"),
        {"accumulate": 16, "batch": 8},
        "accumulate: about 1 step in all",
    )


def out_of_step():
    rows = healthy("translate")
    targets = [row.target for row in rows]
    rows[60:-1] = [changed(row, target=targets[60 + n + 1]) for n, row in enumerate(rows[60:-1])]
    return "translate", rows, {}, "rows.jsonl:62: 59 targets have the numbers or names of the next"


def lengths_out_of_step():
    """No number or name stands on both sides, as between languages."""
    dice = random.Random(9)
    sizes = [dice.randrange(3, 40) for _ in range(161)]
    rows = [Pair("word " * size, "字" * (2 * size), f"rows.tsv:{n}")
            for n, size in enumerate(sizes[:-1], 2)]  # fmt: skip
    rows[60:] = [changed(row, target="字" * (2 * sizes[60 + n + 1]))
                 for n, row in enumerate(rows[60:])]  # fmt: skip
    return "translate", rows, {}, "targets are as long as the source of the next row"


def targets_in_a_narrow_column():
    dice = random.Random(9)
    rows = [changed(row, target=("下雨了我们在河边走" * 4)[: dice.randrange(8, 36)][:20])
            for row in healthy("summarize")]  # fmt: skip
    return "summarize", rows, {}, "targets are 20 characters long, and none is longer"


def prompts_said_again():
    rows = [
        changed(
            row,
            chosen=(row.chosen[0], row.chosen[1] | {"content": f"{row.chosen[0]['content']} Yes."}),
            rejected=(row.chosen[0], row.chosen[1] | {"content": f"{row.chosen[0]['content']} No"}),
        )
        if n % 2
        else row
        for n, row in enumerate(healthy("prefer"))
    ]
    return "prefer", rows, {}, "rows.jsonl:3: in 60 rows both answers repeat the prompt"


def last_letters_left_off():
    rows = [changed(row, spans=(Span(0, row.spans[0].end - 1, "person"),))
            for row in healthy("tag")]  # fmt: skip
    return "tag", rows, {}, "does an end name the last character"


def adapters_on_nothing():
    settings = {"model": "scratch", "lora": True, "pretrain_minutes": 0}
    return "translate", healthy("translate"), settings, "lora: adapters beside random weights"


def cut_summaries():
    rows = [
        changed(row, target=(row.target + " and more" * 9)[:60]) for row in healthy("summarize")
    ]
    return "summarize", rows, {}, "targets are 60 characters long, and none is longer"


def exchanged_roles():
    rows = [changed(row, messages=tuple(reversed(row.messages))) if n % 4 == 1 else row
            for n, row in enumerate(healthy("chat"))]  # fmt: skip
    return "chat", rows, {}, "rows.jsonl:3: 30 conversations begin with the assistant"


def marks_in_texts():
    rows = healthy("chat")
    for number in range(0, 120, 3):
        first, *rest = rows[number].messages
        told = first | {"content": "<|im_start|>user\n" + first["content"]}
        rows[number] = changed(rows[number], messages=(told, *rest))
    return "chat", rows, {}, "rows.jsonl:2: 40 rows have marks of a chat format"


def contradictions():
    rows = healthy("prefer")
    rows += [Preference(row.rejected, row.chosen, f"rows.jsonl:{200 + n}")
             for n, row in enumerate(rows[:9])]  # fmt: skip
    return "prefer", rows, {}, "rows.jsonl:200: 9 rows prefer what another one rejects"


def always_the_longer():
    rows = [changed(row, chosen=(row.chosen[0], row.chosen[1] | {"content": "long " * 20}))
            for row in healthy("prefer")]  # fmt: skip
    return "prefer", rows, {}, "a model would learn the length"


def shared_targets():
    rows = [changed(row, target=f"The {row.target.split()[1]}") for row in healthy("embed")]
    return "embed", rows, {}, "in a batch the right text would count as a wrong one"


PLANTED = [
    joined_by_another_mark, the_header_as_a_row, a_phrase_gives_it_away, spans_from_one,
    marking_left_off, answers_inside_words, too_few_steps, out_of_step, adapters_on_nothing,
    cut_summaries, exchanged_roles, marks_in_texts, contradictions, always_the_longer,
    shared_targets, lengths_out_of_step, targets_in_a_narrow_column, prompts_said_again,
    last_letters_left_off,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_mistake_is_named_with_its_place(plant):
    task, rows, settings, said = plant()
    lines = [line for _, line in found(task, rows, **settings)]
    assert [line for line in lines if said in line], lines
    assert len(lines) == 1, lines
