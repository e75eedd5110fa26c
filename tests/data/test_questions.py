"""SQuAD's JSON and tables; answers that do not stand where they are said to."""

import base64
import json

import pytest

from yantai.base.errors import DataError
from yantai.data.questions import read_questions

CONTEXT = "Anna went to York."
GOOD = {"id": "q1", "question": "Where?", "answers": [{"text": "York", "answer_start": 13}]}


def squad(tmp_path, *questions):
    paragraphs = [{"context": CONTEXT, "qas": list(questions)}]
    path = tmp_path / "dev.json"
    path.write_text(
        json.dumps(
            {"version": "2.0", "data": [{"title": "Anna", "paragraphs": paragraphs}]}, indent=1
        )
    )
    return path


def test_both_forms_say_the_same(tmp_path):
    none = {"id": "q2", "question": "When?", "answers": [], "is_impossible": True}
    rows, account = read_questions(squad(tmp_path, GOOD, none))
    assert [row.answers for row in rows] == [(("York", 13),), ()]
    assert (account.rows_in, account.rows_out) == (2, 2)
    assert rows[0].labels == ("Anna",)
    table = tmp_path / "rows.jsonl"
    answers = {"text": ["York"], "answer_start": [13]}
    table.write_text(json.dumps({"question": "Where?", "context": CONTEXT, "answers": answers}))
    (row,), _ = read_questions(table)
    assert (row.question, row.context, row.answers) == ("Where?", CONTEXT, (("York", 13),))


BAD = {
    "an answer and none": ({"is_impossible": True}, "is_impossible, and has an answer"),
    "one to the left": ({"answers": [{"text": "York", "answer_start": 12}]}, "at character 12"),
    "outside": ({"answers": [{"text": "York", "answer_start": 400}]}, "does not stand"),
    "before": ({"answers": [{"text": "York", "answer_start": -5}]}, "does not stand"),
    "no place": ({"answers": [{"text": "York"}]}, "not a text and its place"),
    "no list": ({"answers": "York"}, "no list"),
    "no question": ({"question": " "}, "the question is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_question_is_named_or_kept(name, tmp_path):
    changes, said = BAD[name]
    path = squad(tmp_path, GOOD, GOOD | {"id": "q2"} | changes)
    with pytest.raises(DataError) as caught:
        read_questions(path)
    lines = path.read_text().splitlines()
    (line,) = (at for at, text in enumerate(lines, 1) if '"id": "q2"' in text)
    assert str(caught.value).startswith(f"dev.json:{line}[q2]: ") and said in str(caught.value)
    rows, account = read_questions(path, policy="quarantine", quarantine=tmp_path / "kept")
    assert len(rows) == 1
    assert (account.rows_in, account.rows_out, sum(account.quarantined.values())) == (2, 1, 1)
    kept = json.loads((tmp_path / "kept" / "rows.jsonl").read_text())
    assert json.loads(base64.b64decode(kept["raw_base64"]))["id"] == "q2"


@pytest.mark.parametrize(
    "content", ["{", "3", "{}", '{"data": [3]}', '{"data": [{"paragraphs": [3]}]}']
)
def test_what_is_no_such_file(content, tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"dev\.json"):
        read_questions(path)


@pytest.mark.parametrize(("name", "questions", "bad"), [
    ("cmrc2018/cmrc2018_dev.json", 3219, None), ("drcd/DRCD_dev.json", 3524, 0),
    ("squad2_devhalf/dev-v2.0-half-minus-xquad.json", 5349, 0),
])  # fmt: skip
def test_real_files(name, questions, bad, data, tmp_path):
    rows, account = read_questions(data / name, policy="quarantine", quarantine=tmp_path / "kept")
    assert account.rows_in == questions
    if bad is not None:
        assert account.rows_in - len(rows) == bad
    for row in rows[:200]:
        for text, start in row.answers:
            assert row.context[start : start + len(text)] == text
