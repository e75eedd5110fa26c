"""What is shown is what is learned."""

import re

from yantai.data.batch import IGNORED
from yantai.data.examples import Example
from yantai.life.preview import LEARNED, PLAIN, as_table, coloured
from yantai.text.chat import ChatFormat

ROWS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Old Ivan."}]


def green(text):
    return "".join(re.findall(re.escape(LEARNED) + "(.*?)" + re.escape(PLAIN), text, re.DOTALL))


def test_the_assistants_words_are_green(tokenizer):
    rendered = ChatFormat(tokenizer).training_row(ROWS)
    example = Example.of_text(rendered.ids, rendered.learn, "row 1")
    shown = coloured(example, tokenizer)
    assert green(shown) == "Old Ivan.<|im_end|>"
    assert "Who?" in re.sub("\033\\[\\d+m", "", shown) and "row 1" in shown
    table = as_table(example, tokenizer)
    learned = [target for target in table["targets"] if target is not None]
    assert tokenizer.decode(learned) == "Old Ivan."


def test_labels_stand_behind_their_tokens(tokenizer):
    ids = tokenizer.encode("Old Ivan.")
    example = Example(ids, [IGNORED] * (len(ids) - 1) + [3], "row 2")
    assert green(coloured(example, tokenizer)) == "[3]"


def test_an_answer_to_a_source(tokenizer):
    ids = tokenizer.encode("伊凡。")
    example = Example([tokenizer.pad_id, *ids[:-1]], ids, "row 3", tokenizer.encode("Ivan."))
    shown = coloured(example, tokenizer)
    assert "Ivan." in re.sub("\033\\[\\d+m", "", shown)
    assert tokenizer.decode(list(example.targets)) == "伊凡。"
