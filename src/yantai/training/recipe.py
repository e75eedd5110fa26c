"""What a training run is, as data: every flag of `yantai pretrain`, checked before anything starts.

Knows: names, ranges, contradictions. Imports no torch, so that `--help` is quick.
"""

from math import inf
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from yantai.base.config import Config

SpikePolicy = Literal["skip", "rewind", "stop", "off"]


class Training(Config):
    """How any model is trained, whatever it learns; None takes the size's value."""

    minutes: float | None = Field(None, gt=0, description="budget: wall time of the training loop")
    steps: int | None = Field(None, ge=1, description="budget: optimiser steps")
    tokens: float | None = Field(None, ge=1, description="budget: training tokens")
    context: int | None = Field(None, ge=8, description="tokens a row")
    batch: int | None = Field(None, ge=1, description="rows a batch")
    accumulate: int = Field(1, ge=1, description="batches a step")
    optimizer: Literal["muon", "adamw", "adam", "sgd"] = Field(
        "muon", description="muon trains matrices, AdamW the rest"
    )
    rate: float | None = Field(None, gt=0, description="peak rate of AdamW, Adam or SGD")
    matrix_rate: float | None = Field(None, gt=0, description="peak rate of Muon")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of matrices")
    schedule: Literal["wsd", "cosine", "linear", "constant"] = Field(
        "wsd", description="how the rate moves"
    )
    warmup: int | None = Field(None, ge=0, description="steps of warm-up")
    cooldown: float = Field(0.6, gt=0, le=1, description="last share of a wsd schedule")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 never clips")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the stream and attention")
    adversarial: float = Field(
        0.0,
        ge=0,
        le=10,
        description="learn each step again, vectors moved by this share against the model",
    )
    ema: float | None = Field(None, gt=0, lt=1, description="keep averaged weights, this decay")
    recompute: bool = Field(False, description="recompute blocks in the backward to save memory")
    compile: bool | None = Field(
        None, description="compile the blocks; None: in a long run on a GPU that has Triton"
    )
    dtype: Literal["auto", "bfloat16", "float32", "float64"] = Field(
        "auto", description="type of the arithmetic; weights stay float32"
    )
    device: str = Field("auto", description="cpu, cuda, or auto")
    threads: int | None = Field(None, ge=1, description="CPU threads; fixed for a run")
    seed: int = Field(0, ge=0, description="decides first weights, order and dropout")
    valid_every: int | None = Field(None, ge=1, description="steps between validations")
    valid_tokens: int = Field(65_536, ge=1, description="validation tokens while training")
    save_minutes: float = Field(5.0, ge=0, description="minutes between checkpoints")
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints instead")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    on_spike: SpikePolicy | None = Field(
        None, description="what to do when the loss jumps: skip; off where labels are learned"
    )
    spike_sigmas: float = Field(6.0, gt=0, description="how far above its recent mean is a jump")
    tensorboard: bool = Field(False, description="also write TensorBoard files")
    allow_change: tuple[str, ...] = Field((), description="fields that a resume may change")
    deterministic: bool = Field(False, description="deterministic kernels on a GPU (slower)")

    @model_validator(mode="after")
    def _one_budget(self) -> "Training":
        given = [name for name in ("minutes", "steps", "tokens") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"one budget at a time: {' and '.join(given)} were given")
        return self


class Pretrain(Training):
    """Train a language model on documents, from raw text to RUN/model.

    Example: yantai pretrain --data books/ --out run --size tiny --minutes 5
    """

    data: tuple[Path, ...] = Field((), description="documents: files or folders")
    out: Path = Field(description="the run's folder")
    valid: tuple[Path, ...] = Field(
        (), description="documents to validate on; else 2 % are held out"
    )
    weights: tuple[float, ...] = Field((), description="shares of the --data paths in the mixture")
    tokenizer: Path | None = Field(None, description="a tokenizer's folder; else one is trained")
    vocab_size: int = Field(4096, ge=261, description="entries of a new tokenizer")
    token_kind: Literal["bpe", "unigram", "wordpiece", "characters"] = Field(
        "bpe", description="kind of a new tokenizer"
    )
    token_bytes: int | None = Field(None, ge=2, description="longest entry of a new tokenizer")
    from_: Path | None = Field(None, alias="from", description="continue from this model folder")
    new_entries: int = Field(0, ge=0, description="with --from: entries its tokenizer gets more")
    size: str = Field("tiny", description="the one dial: nano micro tiny small medium base gpt2 …")
    family: str = Field("qwen3", description="llama qwen3 gpt2 bert t5 bart lstm gru …")
    objective: Literal["causal", "masked", "denoise", "infill"] | None = Field(
        None, description="what is learned from text; None: what suits the family"
    )
    whole_words: bool = Field(False, description="masked: hide whole words, in Chinese too")
    resume: bool = Field(False, description="continue the run in --out")
    text_field: str = Field("text", description="the field of JSON rows that holds the text")
    on_bad_row: Literal["stop", "quarantine"] = Field("stop", description="what a bad row does")
    encoding: str = Field("utf-8", description="encoding of text files")
    layers: int | None = Field(None, ge=1, description="instead of the size's")
    dim: int | None = Field(None, ge=1, description="instead of the size's")
    heads: int | None = Field(None, ge=1, description="instead of the size's")
    kv_heads: int | None = Field(None, ge=1, description="grouped key-value heads")
    head_dim: int | None = Field(None, ge=2, description="instead of dim / heads")
    hidden: int | None = Field(None, ge=1, description="instead of the size's")
    tied: bool = Field(True, description="head and embedding share their matrix")
    softcap: float | None = Field(None, gt=0, description="logit soft cap (not exportable)")


LANGUAGE_TASKS = ("chat", "prefer", "translate", "summarize")
"""Those after which a language model is one still, and may have forgotten."""


SMOOTHED = ("translate", "summarize", "chat", "classify")
"""Those whose loss is −ln p of one entry or label."""


class Finetune(Training):
    """Teach a model a job from rows of examples; score it on rows it has not seen.

    Example: yantai finetune run/model --task classify --data reviews.csv --out reviews
    """

    model: str = Field(description="a model folder, a name on the hub, or the word scratch")
    task: Literal[
        "classify", "tag", "span", "translate", "summarize", "chat", "prefer", "embed"
    ] = Field(description="what it learns")
    data: Path = Field(description="rows to learn from: .csv, .tsv, .jsonl, .json, .parquet")
    out: Path = Field(description="the run's folder")
    valid: Path | None = Field(None, description="rows to choose the best by; else a tenth")
    test: Path | None = Field(None, description="rows to score it on; else a tenth")
    text_column: str = Field("text", description="the column that is judged")
    label_column: str | None = Field(
        None, description="the column that says how: label, for tag entities, for texts target"
    )
    label_separator: str | None = Field(
        None, min_length=1, description="between labels; any number of them may then hold"
    )
    columns: tuple[str, ...] = Field((), description="names of the columns, without a first line")
    beta: float = Field(0.1, gt=0, description="prefer: how strongly the model before holds")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="the share of a target that all entries or labels have alike"
    )
    epochs: float | None = Field(None, gt=0, description="budget: how often the rows are read")
    lora: bool = Field(False, description="learn adapters beside the matrices, not these")
    lora_rank: int = Field(16, ge=1, le=4096, description="rank of the adapters")
    lora_alpha: float = Field(32.0, gt=0, description="their scale is alpha / rank")
    lora_targets: tuple[str, ...] = Field(
        (), description="of q k v out gate value down; all by default"
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="of what adapters read")
    lora_stabilised: bool = Field(False, description="their scale is alpha / √rank (rsLoRA)")
    old_data: tuple[Path, ...] = Field(
        (), description="documents of before, to see what is forgotten; else those of MODEL's run"
    )
    replay: float = Field(
        0.0, ge=0, lt=1, description="share of the rows that are documents of before"
    )
    pretrain_on: tuple[Path, ...] = Field(
        (), description="scratch: documents to warm up on beside the rows"
    )
    pretrain_minutes: float | None = Field(
        None, ge=0, description="scratch: how long to warm up on texts; 0 is one step"
    )
    size: str = Field(
        "tiny",
        description="scratch: the size, nano where labels are judged unread; else whose rates",
    )
    family: str | None = Field(
        None, description="scratch: the model's type; bert, where texts are written t5"
    )
    vocab_size: int = Field(4096, ge=261, description="scratch: entries of the tokenizer")
    token_kind: Literal["bpe", "unigram", "wordpiece", "characters"] | None = Field(
        None, description="scratch: kind of the tokenizer; bpe, where places are found wordpiece"
    )
    token_bytes: int | None = Field(
        None, ge=2, description="scratch: longest entry of the tokenizer"
    )
    encoding: str = Field("utf-8", description="encoding of the rows")
    on_bad_row: Literal["stop", "quarantine"] = Field("stop", description="what a bad row does")
    split_column: str | None = Field(
        None, description="the column that says of each row: train, valid or test"
    )
    shares: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1),
        description="of train, valid, test, where nothing else says a row's part",
    )
    split_seed: int | None = Field(None, ge=0, description="decides the parts; else the seed does")
    preview: int = Field(0, ge=0, description="show so many examples as ids and text; no training")
    resume: bool = Field(False, description="continue the run in --out")

    @model_validator(mode="after")
    def _agrees(self) -> "Finetune":
        if self.epochs is not None and (self.minutes or self.steps or self.tokens):
            raise ValueError("one budget at a time: epochs and another were given")
        if not self.lora and any(name.startswith("lora_") for name in self.model_fields_set):
            raise ValueError("settings of adapters without lora")
        if not all(0 < share < inf for share in self.shares):
            raise ValueError("shares: each of train, valid and test has to have some")
        if self.valid and self.test and "shares" in self.model_fields_set:
            raise ValueError("shares can have no effect where valid and test are given")
        if self.split_column and (self.valid or self.test):
            raise ValueError("split_column names the parts, and valid or test names one again")
        if self.replay and self.task not in ("chat", "translate", "summarize"):
            raise ValueError(f"replay mixes running text in, of which {self.task} learns nothing")
        if self.label_smoothing and (self.task not in SMOOTHED or self.label_separator):
            raise ValueError(f"label_smoothing is for one target of many, as {SMOOTHED[0]} has it")
        if self.old_data and self.task not in LANGUAGE_TASKS:
            raise ValueError(f"old_data is for language models; {self.task} makes another of it")
        if self.model != "scratch" and (self.pretrain_on or self.pretrain_minutes):
            raise ValueError("pretrain_on and pretrain_minutes belong to scratch")
        if self.model != "scratch" and (self.token_kind or self.token_bytes):
            raise ValueError("a model has its tokenizer: token_kind, token_bytes are for scratch")
        return self


_SELDOM = (
    "allow_change compile cooldown clip deterministic keep on_spike save_every save_minutes "
    "spike_sigmas tensorboard threads valid_every valid_tokens warmup device dtype recompute "
    "matrix_rate encoding on_bad_row adversarial "
)
HIDDEN_FLAGS = frozenset(
    (
        _SELDOM + "dim head_dim heads hidden kv_heads layers softcap text_field tied token_bytes "
        "token_kind weights new_entries"
    ).split()
)
"""Settings that a recipe or the command line takes but `--help` does not list."""
HIDDEN_IN_FINETUNE = frozenset(
    (
        _SELDOM + "accumulate beta columns ema label_smoothing lora_alpha lora_dropout lora_rank "
        "lora_stabilised lora_targets old_data optimizer schedule split_seed tokens "
        "token_bytes token_kind vocab_size weight_decay shares dropout"
    ).split()
)
