"""Pieces of a text as tokens and as characters; the loss of packed windows."""

import pytest
import tokenizers
import torch
import transformers

import yantai
from yantai.core.config import Labels, ModelConfig
from yantai.core.initialise import build
from yantai.data.examples import batches_of
from yantai.tasks.frame import Frame
from yantai.tasks.span import (
    SpanTask,
    answer_questions,
    no_answer_place,
    place_of,
    questioned,
    windows_of,
)

CONTEXT = "Ivan lent his grey goose to old Anna. 今天伊凡来了。"
PAIRS = [
    ("Who has the goose?", CONTEXT),
    ("谁来了？", CONTEXT),
    ("Where?", "No."),
    ("Who?", CONTEXT * 6),
]


def characters(text, part):
    start = text.index(part)
    return start, start + len(part)


ANSWERS = [characters(CONTEXT, "old Anna"), characters(CONTEXT, "伊凡"), None]
ANSWERS += [characters(CONTEXT, "grey goose")]


@pytest.fixture(params=["encoder", "decoder", "encoder-decoder"])
def reader(request, tokenizer):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64, shape=request.param, head=Labels(names=("start", "end")),
    )  # fmt: skip
    torch.manual_seed(0)
    model = build(config, seed=1, table="gpt2").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model, Frame(tokenizer, request.param, 56, tokenizer.pad_id)


def test_an_answer_is_the_same_in_tokens_and_in_characters(reader):
    _, frame = reader
    seen = set()
    for window in windows_of(frame, PAIRS):
        example = frame.example(window.ids, "row")
        assert len(window.ids) <= frame.room
        answer = ANSWERS[window.question]
        found = place_of(frame, window, *answer) if answer is not None else None
        if found is None:
            continue
        seen.add(window.question)
        read = list(example.source or example.ids)
        text = frame.tokenizer.decode(read[found[0] : found[1] + 1])
        start, end = answer
        assert text.strip() == PAIRS[window.question][1][start:end]
    assert seen == {0, 1, 3}


def test_every_character_is_in_a_window(reader):
    _, frame = reader
    for number, (_, context) in enumerate(PAIRS):
        windows = [each for each in windows_of(frame, PAIRS) if each.question == number]
        covered = {place for each in windows for pair in each.offsets for place in range(*pair)}
        assert covered == set(range(len(context)))
    assert len([each for each in windows_of(frame, PAIRS) if each.question == 3]) > 1


def test_the_loss_is_that_of_each_window_alone(reader):
    model, frame = reader
    names = [f"row {number}" for number in range(len(PAIRS))]
    examples = questioned(frame, PAIRS, ANSWERS, names)
    expected = 0.0
    for window, example in zip(windows_of(frame, PAIRS), examples, strict=True):
        answer = ANSWERS[window.question]
        none = no_answer_place(frame, window)
        found = place_of(frame, window, *answer) if answer else None
        first, last = found or (none, none)
        ids = torch.tensor([list(example.ids)])
        source = torch.tensor([list(example.source)])
        memory = {"memory": model.encode(source)} if example.source else {}
        with torch.no_grad():
            logs = model(ids, **memory)[0].log_softmax(0)
        expected -= (logs[first, 0] + logs[last, 1]).item() / 2
    task = SpanTask(frame.length)
    batches = batches_of(frame.rows(examples), 2)
    assert sum(batch.target_count for batch in batches) == len(examples)
    ours = sum(task.loss_sum(model, batch).item() for batch in batches)
    assert ours == pytest.approx(expected, rel=1e-4)
    task.loss_sum(model, batches[0]).backward()
    assert all(
        torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None
    )


def test_an_answer_is_the_same_alone_and_among_others(reader):
    model, frame = reader
    together = answer_questions(model, frame, PAIRS)
    for pair, found in zip(PAIRS, together, strict=True):
        (alone,) = answer_questions(model, frame, [pair])
        assert (alone.start, alone.end) == (found.start, found.end)
        assert alone.score == pytest.approx(found.score, abs=1e-4)
        assert 0 <= found.start < found.end <= len(pair[1])
    assert answer_questions(model, frame, []) == []


def pair_tokenizer(kind):
    """A tokenizer as those of BERT or RoBERTa are, of words."""
    words = sorted({word for pair in PAIRS for text in pair for word in text.split()})
    names = {
        "bert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]"),
        "roberta": ("<s>", "</s>", "<pad>", "<u>"),
    }
    begin, end, pad, unknown = names[kind]
    vocab = {name: id for id, name in enumerate([*names[kind], *words])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token=unknown))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    process = tokenizers.processors
    ends = ((end, vocab[end]), (begin, vocab[begin]))
    backend.post_processor = (
        process.BertProcessing(*ends)
        if kind == "bert"
        else process.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token=begin, sep_token=end, bos_token=begin, eos_token=end,
        pad_token=pad, unk_token=unknown,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_pair_is_read_and_judged_as_transformers_does(kind, tmp_path):
    theirs = pair_tokenizer(kind)
    classes = {
        "bert": (transformers.BertConfig, transformers.BertForQuestionAnswering),
        "roberta": (transformers.RobertaConfig, transformers.RobertaForQuestionAnswering),
    }
    make_config, make = classes[kind]
    torch.manual_seed(0)
    config = make_config(
        vocab_size=len(theirs), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=130, pad_token_id=theirs.pad_token_id,
        type_vocab_size=2 if kind == "bert" else 1,
    )  # fmt: skip
    reference = make(config).double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    reference.save_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path)
    model = yantai.load(tmp_path, dtype="float64")
    question, context = PAIRS[0]
    given = theirs(question, context, return_tensors="pt", return_token_type_ids=kind == "bert")
    window = next(windows_of(model.frame, [(question, context)]))
    example = model.frame.example(window.ids, "row", second=window.shift)
    assert example.ids == given["input_ids"][0].tolist()
    with torch.no_grad():
        expected = reference(**given)
    best = answer_questions(model.network, model.frame, [(question, context)])[0]
    both = torch.stack((expected.start_logits[0], expected.end_logits[0]), -1)
    own = both[window.shift : window.shift + len(window.offsets)]
    sums = (own[:, None, 0] + own[None, :, 1]).triu() + torch.full(
        (len(own),) * 2, -torch.inf
    ).tril(-1)
    place = int(sums.argmax())
    start, end = place // len(own), place % len(own)
    assert (best.start, best.end) == (window.offsets[start][0], window.offsets[end][1])
    assert best.score == pytest.approx(float(sums.max() - both[0].sum()), abs=1e-5)
