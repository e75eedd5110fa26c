"""What a model reads before it answers is the same in training and in use."""

import pytest
import torch

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.data.batch import IGNORED
from yantai.data.examples import batches_of
from yantai.infer.rewrite import rewritten
from yantai.tasks.causal import Causal
from yantai.tasks.frame import Frame
from yantai.tasks.seq2seq import asker_of
from yantai.text.tokenizer import Tokenizer

PAIRS = [("Ivan is glad.", "伊凡很高兴。"), ("Anna", "安娜"), ("It rained. " * 60, "下雨了。")]
NAMES = [f"row {number}" for number in range(len(PAIRS))]


@pytest.fixture(params=["encoder-decoder", "chat", "plain"])
def frame(request, tokenizer):
    shape = "encoder-decoder" if request.param == "encoder-decoder" else "decoder"
    if request.param == "plain":
        tokenizer = Tokenizer(
            tokenizer._backend, dict(tokenizer.settings) | {"chat_template": None}
        )
        tokenizer.chat_template = None
    return Frame(tokenizer, shape, 96, tokenizer.pad_id if shape == "encoder-decoder" else None)


def test_the_answer_and_its_end_are_learned_behind_the_prompt(frame):
    asker = asker_of(frame)
    prompts = asker.prompts([source for source, _ in PAIRS])
    for example, prompt, (_, answer) in zip(
        asker.examples(PAIRS, NAMES), prompts, PAIRS, strict=True
    ):
        learned = [target for target in example.targets if target != IGNORED]
        assert frame.tokenizer.decode(learned).strip() == answer
        assert learned[-1] in asker.ends or learned[-2] in asker.ends  # a template may end a line
        if frame.shape == "encoder-decoder":
            assert list(example.source) == prompt
            assert list(example.ids) == [frame.start_id, *list(example.targets)[:-1]]
            continue
        begin = list(example.targets).index(learned[0])
        assert list(example.ids)[: begin + 1] == prompt
        assert len(example.ids) <= frame.length
    assert asker.rows(asker.examples(PAIRS, NAMES)).truncated == 1  # of three sources, the long one


def test_texts_are_written_alike_alone_and_among_others(frame):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=frame.tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=128, shape=frame.shape,
    )  # fmt: skip
    network = build(config, seed=1, table="gpt2").double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    asker = asker_of(frame)
    for batch in batches_of(asker.rows(asker.examples(PAIRS, NAMES)), 2):
        assert torch.isfinite(Causal().loss_sum(network, batch))
    sources = [source for source, _ in PAIRS]
    together = rewritten(network.eval(), frame, sources, max_new_tokens=12)
    assert together == [
        rewritten(network, frame, [source], max_new_tokens=12)[0] for source in sources
    ]
