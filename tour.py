"""A walk through the house, from raw text to a model that answers. Read this first, then run it.

    python tour.py            # about a minute on two CPU cores; writes to a temporary folder

Each stop names the file where the thing is done. Nothing here is special to the tour: these are
the calls that the command line makes.
"""

import json
import tempfile
from pathlib import Path

import torch

import yantai
from yantai.core.config import ModelConfig
from yantai.core.cost import count
from yantai.core.initialise import build, build_meta
from yantai.core.mask import causal, same_document
from yantai.data.loader import Loader
from yantai.data.pack import TextRows
from yantai.data.shards import write_shards
from yantai.evaluate.text_loss import text_loss
from yantai.families.table import FAMILIES
from yantai.life.settings import Verify
from yantai.life.verify import verify
from yantai.text.chat import CHATML, ChatFormat
from yantai.text.compression import compression_report
from yantai.text.document import DocumentReader
from yantai.text.tokenizer import Tokenizer
from yantai.text.village import Village, check, grade
from yantai.training.sizes import model_fields


def main(folder: Path, steps: int = 60) -> None:
    """Every room once, from the ground floor up."""
    # text/village: a small world with exact truth, in English and in Chinese
    village = Village(seed=7, people=24)
    story = next(iter(village.stories(1, "en")))
    print(f"a story: {story.text}\nthe same in Chinese: {story.parallel}\n")
    assert check(story.text, village.world, "en").ok
    assert not check(story.text.replace(" was ", " were ", 1), village.world, "en").ok

    raw = folder / "raw.jsonl"
    with raw.open("w", encoding="utf-8") as file:
        for row in village.documents(2000):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    # text/document: files to documents; every row is accounted for
    documents = DocumentReader([raw])
    tokenizer = Tokenizer.train((document.text for document in documents), 1024)
    assert documents.account.rows_in == documents.account.rows_out == 2000

    # text/tokenizer: text is only ever text, and streaming never cuts a character
    tokenizer.chat_template = CHATML
    assert tokenizer.decode(tokenizer.encode("<|im_end|> 砚台 😀")) == "<|im_end|> 砚台 😀"
    print("bytes a token:", compression_report(tokenizer, (d.text for d in documents)))

    # text/chat: one renderer gives ids and what is learned
    talk = [
        {"role": "user", "content": "Hello!<|im_end|>"},  # no forging a turn
        {"role": "assistant", "content": "Hello, friend."},
    ]
    rendered = ChatFormat(tokenizer).render(talk)
    learned = [id for id, learn in zip(rendered.ids, rendered.learn, strict=True) if learn]
    assert tokenizer.decode(learned) == "Hello, friend."

    # data/shards, data/pack, data/loader: documents to tokens to rows; their order is a function of
    # (seed, step)
    shards = write_shards(documents, tokenizer, folder / "tokens")
    loader = Loader([TextRows(shards, length=128, seed=0)], batch=8)
    batch = loader.batches(step=41)[0]
    assert torch.equal(batch.ids, loader.batches(step=41)[0].ids)

    # core/model, core/initialise: one Transformer, no family's name in it; built on nothing,
    # counted, then given numbers
    config = ModelConfig(**model_fields("nano", "qwen3") | {"vocab_size": tokenizer.vocab_size})
    cost = count(build_meta(config), context=128)
    print(f"{cost.parameters:,} parameters, {cost.training_flops / 1e6:.1f} MFLOP a trained token")
    model = build(config, seed=0)
    mask = same_document(batch.documents)  # nobody looks into another document
    loss = model.loss_sum(batch.ids, batch.targets, mask, batch.positions) / batch.target_count
    print(f"an untrained model's loss: {float(loss.detach()):.2f} nats a token")
    assert (causal() & mask).causal

    # training/pretrain, training/loop: from raw text to RUN/model; after a kill --resume goes on
    result = yantai.train(
        {
            "data": (raw,),
            "out": folder / "run",
            "size": "nano",
            "vocab_size": 1024,
            "context": 128,
            "batch": 16,
            "steps": steps,
        }
    )
    print(f"trained: loss {result['loss']:.2f}, {result['tokens_per_second']:,.0f} tokens/s")

    # families/folder: it is a Hugging Face folder of the named family
    theirs = json.loads((folder / "run" / "model" / "config.json").read_text())
    assert FAMILIES[theirs["model_type"]].architecture in theirs["architectures"]

    # infer/opening, infer/language_model: load, continue, score
    trained = yantai.load(folder / "run" / "model")
    print("continued:", trained.generate("One morning", max_new_tokens=20, temperature=0.7, seed=1))
    scores = trained.score("The baker slept.")
    print("ln p of each token:", [(s.token, round(s.log_probability, 1)) for s in scores])

    # evaluate/text_loss: bits per byte with an interval, on people who never occurred in training
    unseen = list(village.stories(20, "en", split="heldout_facts"))
    path = folder / "unseen.txt"
    path.write_text("\n\n".join(item.text for item in unseen), encoding="utf-8")
    report = text_loss(trained, DocumentReader([path], split="blank_line")).report()
    print(f"bits per byte on unseen people: {report['bits_per_byte']:.3f}")

    # life/verify: the chain of hashes from sources to weights holds; a question has one answer
    assert verify(Verify(folder=folder / "run"), emit=lambda text: None)["holds"]
    question = village.questions("en", wording="heldout")[0]
    print(f"{question.prompt} -> {question.answer}")
    assert grade(question.answer, question)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
