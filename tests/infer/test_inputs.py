"""What is no text is refused before anything is computed."""

import pytest

from yantai.base.errors import UsageError
from yantai.infer.inputs import given_texts
from yantai.infer.rewrite import translate


@pytest.mark.parametrize(
    ("inputs", "where"),
    [("", "inputs"), (["a", " \n"], "inputs[1]"), (["a", None], "inputs[1]"), ("\ud800", "inputs")],
)
def test_what_has_no_letters_is_named(inputs, where):
    with pytest.raises(UsageError) as refused:
        given_texts(inputs)
    assert (refused.value.code, refused.value.where) == ("E201", where)


def test_a_character_that_the_length_cuts_is_left_out(tokenizer, some_model):
    """Whatever is written: no text ends between the bytes of a character."""
    from yantai.families.table import family_named
    from yantai.infer.language_model import LanguageModel

    network = some_model(vocab_size=tokenizer.vocab_size, max_positions=128)
    model = LanguageModel(network, family_named("llama"), tokenizer)
    cut = tokenizer.encode("龘")  # bytes, none of them a character
    assert len(cut) > 1 and tokenizer.decode(cut[:1]) == "\N{REPLACEMENT CHARACTER}"
    for length in range(1, 12):
        text = translate(model, "Ivan", max_new_tokens=length, num_beams=1)
        assert not text.endswith("\N{REPLACEMENT CHARACTER}")
