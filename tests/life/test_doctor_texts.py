"""Each mistake in the texts themselves is named where it is, and rows without it are left alone."""

import pytest
from test_doctor_jobs import NAMES, changed, healthy

from yantai.data.labelled import Labelled
from yantai.data.questions import Question
from yantai.data.tagged import Tagged
from yantai.life.doctor_texts import LOOKS, look_at_texts
from yantai.text.spans import Span


@pytest.mark.parametrize("task", [*LOOKS, "chat"])
def test_healthy_rows_are_left_in_peace(task):
    told = list(look_at_texts(task, healthy(task)))
    assert [text for level, text in told if level == "problem"] == []


def replaced(task, many=10**9, **makers):
    """Healthy rows, the first of them with other fields."""
    return [
        changed(row, **{name: make(row, n) for name, make in makers.items()}) if n < many else row
        for n, row in enumerate(healthy(task))
    ]


def said(row, name, text):
    """Messages whose last one says something else."""
    turns = getattr(row, name)
    return (*turns[:-1], {**turns[-1], "content": text})


def a_stub():
    rows = replaced("classify", text=lambda row, n: f"Ticket #{n * 37} of 12:{n % 60:02}")
    return "classify", rows, "rows.jsonl:2: 120 texts are 1 but for their numbers"


def escapes():
    rows = replaced("chat", 20, messages=lambda row, n: said(row, "messages", f"One.\\n{n} two."))
    return "chat", rows, r"rows.jsonl:2: in 20 rows the answer has '\\n', spelled out"


def entities():
    rows = replaced("classify", 20, text=lambda row, n: row.text + " &amp; more")
    return "classify", rows, "in 20 rows the text has '&amp;'"


def garbled_letters():
    def read_wrongly(row, n):
        return ("位置好，" + row.text).encode().decode("latin-1" if n % 2 else "cp1252", "ignore")

    rows = replaced("classify", 20, text=read_wrongly)
    return "classify", rows, "texts are UTF-8 read as something else, the first has a '置'"


def a_footer():
    rows = replaced("summarize", target=lambda row, n: row.target + "更多内容请关注本报。")
    return "summarize", rows, "120 of 120 have the same end of the target"


def a_beginning():
    rows = replaced("summarize", 80, target=lambda row, n: "In this article, " + row.target)
    return "summarize", rows, "have the same beginning of the target"


def one_refusal():
    rows = replaced("prefer", rejected=lambda row, n: said(row, "rejected", "I cannot help you."))
    return "prefer", rows, "the rejected is the same in 120 rows"


def errors_of_a_service():
    text = "Error 429: too many requests, id {}"
    rows = replaced("chat", 30, messages=lambda row, n: said(row, "messages", text.format(n * 7)))
    return "chat", rows, "rows.jsonl:2: the answer is the same in 30 rows but for numbers"


def placeholders():
    rows = replaced(
        "translate",
        source=lambda row, n: row.source + " {count} left",
        target=lambda row, n: row.target + (" {zahl}" if n < 30 else " {count}"),
    )
    return "translate", rows, "rows.jsonl:2: in 30 of 120 rows placeholders change, '{count}'"


def made_up():
    rows = replaced(
        "summarize", target=lambda row, n: f"the 9{n} were sold to Aunt {NAMES[n % 8]}x"
    )
    return "summarize", rows, "numbers and names of the summaries are not in their texts"


def every_word_begins():
    rows = []
    for n in range(60):
        first, last = NAMES[n % 8], NAMES[(n + 3) % 8]
        spans = (Span(0, len(first), "person"),
                 Span(len(first) + 1, len(first) + 1 + len(last), "person"))  # fmt: skip
        rows.append(Tagged(f"{first} {last} came at {n}.", spans, f"rows.jsonl:{n + 1}"))
    return "tag", rows, "rows.jsonl:1: 60 names of one word follow one of the same kind"


def the_first_sentence():
    rows = [
        Question("Who?", f"{NAMES[n % 8]} came at {n}. Rain fell. The mill stood. It was late.",
                 ((NAMES[n % 8], 0),), f"{n}", f"{n}", f"rows.jsonl:{n + 1}")
        for n in range(60)
    ]  # fmt: skip
    return "span", rows, "60 of 60 answers stand in the first sentence"


def names_cut_apart():
    cut = (("sign", "in"), ("pre", "order"))
    rows = [
        Labelled(f"text {NAMES[n % 8]} {n} and {'abc'[n % 3]}", cut[n % 2], f"rows.jsonl:{n + 1}")
        for n in range(60)
    ]
    return "classify", rows, "does label_separator cut names apart?"


def twins():
    rows = replaced("prefer", 20, chosen=lambda row, n: said(row, "chosen", f"Yes, {n} of them. "),
                    rejected=lambda row, n: said(row, "rejected", f"Yes {n} of them"))  # fmt: skip
    return "prefer", rows, "rows.jsonl:2: in 20 rows both answers are the same but for spaces"


def a_number_of_the_pair():
    rows = replaced("embed", source=lambda row, n: f"[KB-{4000 + n * 31}] {row.source}",
                    target=lambda row, n: f"[KB-{4000 + n * 31}] {row.target}")  # fmt: skip
    return "embed", rows, "120 pairs share a number that no other pair has, such as 'KB-4000'"


def a_general_subject():
    rows = replaced("classify", text=lambda row, n: ("(no subject)", "Contact form")[n % 2])
    return "classify", rows, "120 texts are 2 but for their numbers"


def cut_answers():
    def text(row, n):
        return "Take the left road, " * 5 + "then" if n % 3 else f"Yes, {n} of them."

    rows = replaced("chat", messages=lambda row, n: said(row, "messages", text(row, n)))
    return "chat", rows, "80 of 120 end in the middle of a sentence, the longest ones"


def summaries_that_stand_there():
    rows = replaced("summarize", source=lambda row, n: f"{row.source} Summary: {row.target}")
    return "summarize", rows, "120 of 120 summaries stand in their texts word for word"


def names_with_marks():
    def spans(row, n):
        place = len(row.text)
        return (Span(place - 4, place, "place"),)

    rows = replaced("tag", 30, spans=spans)
    rows = [changed(row, text=row.text.rstrip(".") + ",") for row in rows]
    return "tag", rows, "in 30 rows a name begins or ends with a mark"


def a_mark_of_the_export():
    rows = replaced("classify", text=lambda row, n: row.text.replace(".", "") + (
        "!" if row.labels == ("loss",) else "."))  # fmt: skip
    return "classify", rows, "have '.', 0 others do: the model would learn that alone"


PLANTED = (
    a_general_subject, cut_answers, summaries_that_stand_there, names_with_marks,
    a_mark_of_the_export,
    a_stub, escapes, entities, garbled_letters, a_footer, a_beginning, one_refusal,
    errors_of_a_service,
    placeholders, made_up, every_word_begins, the_first_sentence, names_cut_apart, twins,
    a_number_of_the_pair,
)  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_mistake_is_named(plant):
    task, rows, expected = plant()
    told = [text for _, text in look_at_texts(task, rows)]
    assert any(expected in text for text in told), told
