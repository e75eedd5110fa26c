"""Labels of tokens and spans of characters are the same thing said twice."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.core.config import Labels, ModelConfig
from yantai.core.initialise import build
from yantai.data.batch import IGNORED
from yantai.data.examples import batches_of
from yantai.tasks.frame import Frame
from yantai.tasks.tag import (
    Tag,
    labels_of,
    marked,
    spans_of,
    tag_texts,
    tagged,
    token_labels,
    windows,
)
from yantai.text.spans import Span

NAMES = labels_of(["animal", "person"])
TEXT = "Ivan and old Anna saw a grey goose. 今天伊凡来了。"


def span(part, label, text=TEXT):
    start = text.index(part)
    return Span(start, start + len(part), label)


SPANS = (span("Ivan", "person"), span("old Anna", "person"), span("goose", "animal"))
SPANS += (span("伊凡", "person"),)


@pytest.fixture(params=["encoder", "decoder"])
def tagger(request, tokenizer):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64, shape=request.param, head=Labels(names=NAMES),
        position="rotary",
    )  # fmt: skip
    torch.manual_seed(0)
    model = build(config, seed=1, table="gpt2").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model, Frame(tokenizer, request.param, 48)


def test_spans_become_labels_and_labels_spans(tokenizer):
    tokens = marked(Frame(tokenizer, "encoder", 48), TEXT)
    labels = token_labels(tokens, SPANS, NAMES)
    assert spans_of(tokens, [NAMES[label] for label in labels]) == SPANS
    assert sum(NAMES[label][0] == "B" for label in labels) == len(SPANS)


def test_a_span_that_is_not_begun_begins_anyway(tokenizer):
    tokens = marked(Frame(tokenizer, "encoder", 48), "a b c")
    labels = ["I-person", "I-person", "I-animal"][: len(tokens.ids)]
    found = spans_of(tokens, labels + ["O"] * (len(tokens.ids) - len(labels)))
    assert [each.label for each in found] == ["person", "animal"]


@given(st.integers(0, 200), st.integers(4, 40))
@settings(max_examples=200, deadline=None)
def test_every_token_is_judged_in_one_window(count, room):
    judged = []
    for begin, end, first, last in windows(count, room):
        assert begin <= first <= last <= end and end - begin <= room
        assert first == 0 or first - begin >= room // 8
        assert last == count or end - last >= room // 8
        judged += range(first, last)
    assert judged == list(range(count))


def test_a_text_is_tagged_alike_alone_and_among_others(tagger):
    model, frame = tagger
    texts = [TEXT, "No.", "", "  ", TEXT * 8]
    together = tag_texts(model, frame, texts, NAMES)
    assert together == [tag_texts(model, frame, [text], NAMES)[0] for text in texts]
    assert together[2] == together[3] == ()
    assert any(together)
    for text, spans in zip(texts, together, strict=True):
        for start, end, _ in spans:
            assert text[start:end].strip() == text[start:end] != ""


def test_the_loss_is_over_tokens_of_texts_alone(tagger):
    model, frame = tagger
    tokens = marked(frame, TEXT)
    labels = token_labels(tokens, SPANS, NAMES)
    rows = frame.rows(tagged(frame, [tokens], [labels], ["row 1"]))
    (batch,) = batches_of(rows, 8)
    assert batch.target_count == len(tokens.ids)
    ids = torch.tensor([frame.begin + tokens.ids + frame.end])
    logits = model(ids)[0, len(frame.begin) :][: len(labels)]
    expected = F.cross_entropy(logits, torch.tensor(labels), reduction="sum")
    assert Tag().loss_sum(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert (batch.targets[batch.ids == frame.begin[0]] == IGNORED).all()
