import json

import pytest

from yantai.base.errors import DataError
from yantai.data.conversations import read_conversations

ASKED = [{"role": "user", "content": "谁？\n名字"}, {"role": "assistant", "content": "伊凡。"}]
FORMS = {
    "messages": {"messages": ASKED},
    "alpaca": {"instruction": "谁？", "input": "名字", "output": "伊凡。"},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "谁？\n名字"}, {"from": "gpt", "value": "伊凡。"},
        ]
    },
}  # fmt: skip


def written(tmp_path, *rows):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_the_three_forms_say_the_same(form, tmp_path):
    (row,), _ = read_conversations(written(tmp_path, FORMS[form]))
    assert list(row.messages) == ASKED


def test_history_and_system_come_first(tmp_path):
    given = {"instruction": "c", "output": "d", "history": [["a", "b"]], "system": "s"}
    (row,), _ = read_conversations(written(tmp_path, given))
    assert [each["content"] for each in row.messages] == ["s", "a", "b", "c", "d"]
    assert row.labels == ("a",)


BAD = {
    "an empty answer": ({"instruction": "a", "output": " "}, "nothing to learn"),
    "no answer": ({"messages": ASKED[:1]}, "nothing to learn"),
    "no form": ({"prompt": "a"}, "no 'messages'"),
    "an unknown role": ({"messages": [{"role": "bot", "content": "a"}]}, "role"),
    "an unknown speaker": ({"conversations": [{"from": "x", "value": "a"}]}, "speaker"),
    "a number": ({"instruction": 3, "output": "a"}, "not a text"),
    "no list": ({"messages": "a"}, "no list"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_conversation_is_named(name, tmp_path):
    row, said = BAD[name]
    with pytest.raises(DataError) as caught:
        read_conversations(written(tmp_path, {"messages": ASKED}, row))
    assert "rows.json:1[1]" in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize("name", ["sft_demo/alpaca_zh_demo.json", "alpaca_zh/part-00.json"])
def test_real_files(name, data, tmp_path):
    rows, account = read_conversations(
        data / name, policy="quarantine", quarantine=tmp_path / "kept"
    )
    assert len(rows) + sum(account.quarantined.values()) == account.rows_in > 100
    assert all(row.messages[-1]["content"].strip() for row in rows)
