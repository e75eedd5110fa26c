"""The flags of the verbs that are no training: names, ranges, help. Imports no torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from yantai.base.config import Config
from yantai.infer.settings import Generation

Measured = Literal[
    "classify", "tag", "span", "translate", "summarize", "chat", "prefer", "embed", "choose"
]
"""What `evaluate` measures on rows, `life/jobs/` by name."""


class _OnModel(Config):
    dtype: Literal["auto", "bfloat16", "float32", "float64"] = Field(
        "auto", description="type of the arithmetic; auto is the fastest here"
    )
    device: str = Field("auto", description="cpu, cuda, or auto")


class Generate(Generation, _OnModel):
    """Continue a text.

    Example: yantai generate run/model "Once upon a time" --temperature 0.7
    """

    model: Path = Field(description="a model folder, a name on the hub, or a file of llama2.c")
    prompt: str = Field("", description="the text to continue, or with ___ where to fill in")


class Chat(_OnModel):
    """Talk to a model in the terminal; /reset starts over, /exit or Ctrl-D ends.

    Ctrl-C stops an answer; twice in a row at the prompt it ends the chat.

    Example: yantai chat quickstart/model
    """

    model: Path = Field(description="a model folder, a name on the hub, or a file of llama2.c")
    system: str | None = Field(None, description="a system message")
    max_new_tokens: int | None = Field(
        None, ge=1, description="longest answer, tokens; 256, or half of a smaller context"
    )
    temperature: float | None = Field(None, ge=0, le=100, description="0 or absent is greedy")
    top_p: float | None = Field(None, gt=0, le=1, description="draw among this probability mass")
    seed: int = Field(0, ge=0, description="decides what is drawn")


class Evaluate(_OnModel):
    """How good a model is, with 95 % intervals: loss on documents, or scores on rows of examples.

    Example: yantai evaluate run/model --data held-out/ --json
    """

    model: Path = Field(description="a model folder, a name on the hub, or a file of llama2.c")
    data: tuple[Path, ...] = Field(
        (), description="documents, or for a taught model a file of rows"
    )
    harness: tuple[str, ...] = Field((), description="tasks of lm-evaluation-harness, instead")
    harness_folder: Path | None = Field(None, description="a folder with further tasks of its kind")
    limit: int | None = Field(None, ge=1, description="harness: examples a task, for trying")
    against: Path | None = Field(None, description="a second model, compared on the same text")
    context: int | None = Field(None, ge=2, description="tokens a window; the model's by default")
    stride: int | None = Field(None, ge=1, description="how far windows slide; half by default")
    task: Measured | None = Field(None, description="rows: what is asked; else what the model does")
    train: Path | None = Field(None, description="rows: those that floors learn from")
    out: Path | None = Field(None, description="a folder for report.json and report.html")
    on_bad_row: Literal["stop", "quarantine"] = Field(
        "stop", description="rows: what a bad one does; quarantine keeps it below --out"
    )
    text_column: str = Field("text", description="rows: the column that is read")
    label_column: str | None = Field(None, description="rows: the column that says what is right")
    label_separator: str | None = Field(None, description="rows: between several labels")
    columns: tuple[str, ...] = Field((), description="rows: names of columns, without a first line")
    text_field: str = Field("text", description="the field of JSON rows that holds the text")
    encoding: str = Field("utf-8", description="encoding of text files")
    seed: int = Field(0, ge=0, description="of the bootstrap")
    dtype: Literal["auto", "bfloat16", "float32", "float64"] = Field(
        "float32", description="type of the arithmetic"
    )


class Predict(_OnModel):
    """Ask a model about every row of a file; a row of answer for each, in order.

    Example: yantai predict reviews/model --data new.csv --out answers.jsonl
    """

    model: Path = Field(description="a model folder made by finetune")
    data: Path = Field(description="rows: .csv, .tsv, .jsonl, .json, .parquet")
    out: Path = Field(description="where the answers go, a .jsonl file")
    task: Literal["classify", "tag", "span", "translate", "summarize", "chat", "embed"] | None = (
        Field(None, description="what is asked; a model that judges knows it by itself")
    )
    text_column: str = Field("text", description="the column that is read")
    columns: tuple[str, ...] = Field((), description="names of the columns, without a first line")
    encoding: str = Field("utf-8", description="encoding of the rows")
    on_bad_row: Literal["stop", "mark"] = Field(
        "stop", description="what a bad row does; mark writes why in its place"
    )
    seed: int = Field(0, ge=0, description="recorded; nothing is drawn")


class Quantize(Config):
    """Pack a model's weights in eight or four bits, and say what that costs on your text.

    Example: yantai quantize run/model --bits 8 --out run/model-8 --data held-out/
    """

    model: str = Field(description="a model folder, or a name on the hub")
    out: Path = Field(description="the folder of the packed model")
    bits: Literal[4, 8] = Field(8, description="of a weight inside the blocks")
    group: int | None = Field(
        None, ge=32, multiple_of=32, description="columns that share a scale; 64, in 4 bits 32"
    )
    data: tuple[Path, ...] = Field((), description="documents to compare on; else those of its run")
    calibrate: tuple[Path, ...] = Field(
        (), description="documents by which scales of 4 bits are chosen"
    )
    rows: Path | None = Field(None, description="rows with answers, to compare how it does its job")
    task: Measured | None = Field(None, description="rows: what is asked; else what the model does")
    text_column: str = Field("text", description="rows: the column that is read")
    label_column: str | None = Field(None, description="rows: the column that says what is right")
    max_loss_increase: float = Field(
        0.05, ge=0, description="refuse if the loss rises by more than this share"
    )
    max_matrix_error: float | None = Field(
        None, gt=0, description="refuse if a matrix is farther off; 0.05, in 4 bits 0.2"
    )
    rest: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="type of what is not packed: norms, biases"
    )
    device: str = Field("auto", description="cpu, cuda, or auto")
    threads: int | None = Field(None, ge=1, description="CPU threads")
    seed: int = Field(0, ge=0, description="of the bootstrap")


class Export(Config):
    """Write a model in the form of other programs: a GGUF file, or a plain folder.

    A GGUF file holds byte-level BPE alone, no vocabulary of SentencePiece such as Llama 2's.

    Example: yantai export run/model --to gguf --out model.gguf
    """

    model: str = Field(description="a model folder, or a name on the hub")
    out: Path = Field(description="the file, or the folder")
    to: Literal["gguf", "folder"] = Field(
        "gguf",
        description="gguf (llama.cpp) or folder (transformers, onnxruntime-genai, vLLM: untried)",
    )
    type: Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"] | None = Field(
        None, description="of the matrices; F16, in a folder BF16"
    )
    data: tuple[Path, ...] = Field((), description="documents to compare on; else those of its run")
    seed: int = Field(0, ge=0, description="of the bootstrap")


class TrainTokenizer(Config):
    """Learn a byte-level BPE vocabulary and report how well it fits each language.

    Example: yantai tokenizer books/ --vocab-size 8192 --out tokenizer
    """

    documents: tuple[Path, ...] = Field(description="documents: files or folders")
    out: Path = Field(description="the tokenizer's folder")
    vocab_size: int = Field(8192, ge=261, description="entries, bytes and special tokens included")
    kind: Literal["bpe", "unigram", "wordpiece", "characters"] = Field(
        "bpe", description="what a token is"
    )
    token_bytes: int | None = Field(None, ge=2, description="no entry is longer")
    text_field: str = Field("text", description="the field of JSON rows that holds the text")
    on_bad_row: Literal["stop", "quarantine"] = Field("stop", description="what a bad row does")
    encoding: str = Field("utf-8", description="encoding of text files")
    seed: int = Field(0, ge=0, description="recorded; training a vocabulary draws nothing")


class Tune(Config):
    """Search fields of a recipe for the best validation score, and write the best recipe.

    Example: yantai tune reviews.yaml --trials 30 --out tuning
    """

    recipe: Path = Field(description="a recipe with a table `search`: field → range or choices")
    out: Path = Field(description="the study's folder")
    trials: int = Field(30, ge=1, description="trials in all, those of earlier sessions included")
    workers: int = Field(1, ge=1, description="processes that run trials at the same time")
    finalists: int = Field(3, ge=1, description="best trials that are run again with other seeds")
    seeds: int = Field(3, ge=1, description="seeds of each finalist, the same for all")
    prune: bool = Field(True, description="stop trials that fall behind")
    seed: int = Field(0, ge=0, description="decides what is tried")
    resume: bool = Field(False, description="go on with the study in --out")


class Doctor(Config):
    """Check this machine, and a recipe, documents or a model, before an hour is spent.

    Example: yantai doctor recipes/novels.yaml
    """

    what: Path | None = Field(None, description="a recipe, documents, or a model folder")
    text_field: str = Field("text", description="the field of JSON rows that holds the text")
    seed: int = Field(0, ge=0, description="of the trial products")


class Verify(Config):
    """Walk the chain of hashes of a run or model folder; the broken link is named.

    Example: yantai verify run
    """

    folder: Path = Field(description="a run's folder or a model folder")
    seed: int = Field(0, ge=0, description="recorded only")


class Quickstart(Config):
    """The whole life of a small model on this machine: text, training, scores, a page to talk on.

    Example: yantai quickstart --minutes 5
    """

    out: Path = Field(Path("quickstart"), description="the folder that everything goes to")
    minutes: float = Field(5.0, gt=0.2, le=600, description="about how long it may take")
    serve: bool = Field(True, description="end on its page, where there is a terminal")
    no_serve: bool = Field(False, description="end after the scores")
    seed: int = Field(7, ge=0, description="of the village and of the training")
    threads: int | None = Field(None, ge=1, description="CPU threads")
