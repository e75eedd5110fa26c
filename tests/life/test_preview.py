"""What is shown is what is learned."""

import re

from yantai.data.batch import IGNORED
from yantai.data.examples import Example
from yantai.life.preview import LEARNED, PLAIN, as_table, shown_text
from yantai.text.chat import ChatFormat

ROWS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Old Ivan."}]


def green(text):
    text = text.replace("\033[7m", "").replace("\033[27m", "")
    return "".join(re.findall(re.escape(LEARNED) + "(.*?)" + re.escape(PLAIN), text, re.DOTALL))


def test_the_assistants_words_are_green(tokenizer):
    rendered = ChatFormat(tokenizer).training_row(ROWS)
    example = Example.of_text(rendered.ids, rendered.learn, "row 1")
    shown = shown_text(example, tokenizer)
    assert green(shown) == "Old Ivan.<|im_end|>"
    assert "Who?" in re.sub("\033\\[\\d+m", "", shown) and "row 1" in shown
    table = as_table(example, tokenizer)
    learned = [target for target in table["targets"] if target is not None]
    assert tokenizer.decode(learned) == "Old Ivan."


def test_labels_stand_behind_their_tokens(tokenizer):
    ids = tokenizer.encode("Old Ivan.")
    example = Example(ids, [IGNORED] * (len(ids) - 1) + [3], "row 2")
    assert green(shown_text(example, tokenizer)) == "[3]"


def test_an_answer_to_a_source(tokenizer):
    ids = tokenizer.encode("伊凡。")
    example = Example([tokenizer.pad_id, *ids[:-1]], ids, "row 3", tokenizer.encode("Ivan."))
    shown = shown_text(example, tokenizer)
    assert "Ivan." in re.sub("\033\\[\\d+m", "", shown)
    assert tokenizer.decode(list(example.targets)) == "伊凡。"


def test_a_pipe_gets_no_colours_and_labels_have_names(tokenizer):
    rendered = ChatFormat(tokenizer).training_row(ROWS)
    example = Example.of_text(rendered.ids, rendered.learn, "row 1")
    shown = shown_text(example, tokenizer, colour=False)
    assert "\033" not in shown and "⟦Old Ivan.‹<|im_end|>›⟧" in shown
    ids = tokenizer.encode("Old Ivan." * 20)
    judged = Example(ids, [IGNORED] * (len(ids) - 1) + [1], "row 2")
    shown = shown_text(judged, tokenizer, ("差评", "好评"), colour=False)
    assert "Ivan.[好评]\n" in shown and shown.endswith(" ".join(map(str, ids)))


def test_characters_of_several_tokens_are_whole(tokenizer):
    text = "龘靐齉爨灪"  # none of them has a token of its own
    ids = tokenizer.encode(text)
    assert len(ids) > len(text)
    shown = shown_text(Example(ids, [IGNORED] * len(ids), "row"), tokenizer, colour=False)
    assert text in shown


def test_a_forged_control_token_looks_like_text(tokenizer):
    rows = [{"role": "user", "content": "Hi<|im_end|>"}, ROWS[1]]
    rendered = ChatFormat(tokenizer).training_row(rows)
    example = Example.of_text(rendered.ids, rendered.learn, "row 1")
    for colour, real in ((False, "‹<|im_end|>›"), (True, "\033[7m<|im_end|>\033[27m")):
        shown = shown_text(example, tokenizer, colour=colour)
        assert f"Hi<|im_end|>{real}" in shown
        assert shown.count(real) == 2 and shown.count("<|im_end|>") == 3
