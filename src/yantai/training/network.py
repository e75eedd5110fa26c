"""The network that a run begins with: a new one of a size, or one that goes on.

Knows: what the recipe may say about either. Nothing is trained here.
"""

from typing import Any

import torch

from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import Labels, ModelConfig, RecurrentConfig
from yantai.core.face import Model
from yantai.core.grow import grow_vocabulary, with_head
from yantai.families.folder import load_folder
from yantai.families.labels import JUDGES, Job
from yantai.families.packed_folder import refuse_packed
from yantai.families.rules import Family, checked_config
from yantai.text.extension import extension_of
from yantai.text.tokenizer import Tokenizer
from yantai.training.recipe import Pretrain
from yantai.training.sizes import model_fields, state_width

NOT_WITH_FROM = ("layers", "dim", "heads", "kv_heads", "head_dim", "hidden", "softcap", "dropout")


def check_continued(settings: Pretrain) -> None:
    """What can be said before a folder is begun.

    Raises:
        UsageError: a setting that only a new model has.
        ModelFileError: E405, the tokenizer is not that of the model, nor one that extends it.
    """
    assert settings.from_ is not None
    changed = [name for name in NOT_WITH_FROM if getattr(settings, name)]
    changed += [] if settings.tied else ["tied"]
    if changed:
        raise UsageError("E203", changed[0], "is decided by the model of --from", do="leave it out")
    old = Tokenizer.find(settings.from_)
    if old is not None and settings.tokenizer is not None:
        extension_of(old, Tokenizer.load(settings.tokenizer), str(settings.tokenizer))


def continued(
    settings: Pretrain, tokenizer: Tokenizer, device: torch.device
) -> tuple[Model, int | None]:
    """The model to go on with, its rows grown to the tokenizer's, and what its decoder begins with.

    Raises:
        ModelFileError: E405, the tokenizer is not that of the model, nor one that extends it.
        UsageError: the rows are longer than what the model has positions for.
    """
    folder = settings.from_
    assert folder is not None
    model, _, theirs = load_folder(folder, dtype=torch.float32, device=device)
    refuse_packed(model, folder)
    old = Tokenizer.find(folder)
    known = old if old is not None else tokenizer
    rows = model.config.vocab_size
    if known.vocab_size > rows:
        raise ModelFileError(
            "E405", folder, "ids reach beyond the embedding", expected=f"at most {rows}",
            got=known.vocab_size, do="the tokenizer and the weights must be of one model",
        )  # fmt: skip
    if old is not None:
        spelled = extension_of(old, tokenizer, str(folder / "tokenizer.json"))
        if spelled:
            model = grow_vocabulary(model, tokenizer.vocab_size, spelled)
    limited = model.config.position in ("learned", "rotary")
    if limited and (settings.context or 0) > model.config.max_positions:
        raise UsageError(
            "E203", "context", "longer than the model's",
            expected=f"at most {model.config.max_positions}", got=settings.context,
            do="give --context",
        )  # fmt: skip
    if settings.recompute and isinstance(model.config, RecurrentConfig):
        raise UsageError("E203", "recompute", "a recurrent network has none", do="leave it out")
    start_id = theirs.get("decoder_start_token_id")
    return model, start_id if isinstance(start_id, int) else None


def model_config(
    settings: Pretrain, family: Family, vocab_size: int
) -> ModelConfig | RecurrentConfig:
    """The model of a size, with what the recipe changes."""
    fields = model_fields(settings.size, family.name)
    names = ("layers", "dim", "heads", "kv_heads", "head_dim", "hidden")
    given = {key: getattr(settings, key) for key in names}
    changed = {key: value for key, value in given.items() if value is not None}
    fields |= changed | {
        "vocab_size": vocab_size,
        "max_positions": max(fields["max_positions"], settings.context or 0),
        "dropout": settings.dropout,
        "tied": settings.tied,
    }
    if family.structure is RecurrentConfig:
        _complete_recurrent(fields, settings)
    else:
        fields["softcap"] = settings.softcap
        _complete_widths(fields, changed)
    try:
        config = checked_config(family.structure, fields, "model", {})
    except ModelFileError as error:  # of a new model, not of a file
        raise UsageError("E203", "model", str(error).removeprefix("model:")) from error
    assert isinstance(config, (ModelConfig, RecurrentConfig))
    return config


def _complete_widths(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    """Widths that follow from those that the recipe has changed."""
    if "heads" in changed or "dim" in changed:
        if "head_dim" not in changed:
            if fields["dim"] % fields["heads"]:
                raise UsageError("E203", "heads", "must divide dim", got=f"{fields['heads']} heads")
            fields["head_dim"] = fields["dim"] // fields["heads"]
        if "kv_heads" not in changed:
            fields["kv_heads"] = fields["heads"]
    if "dim" in changed and "hidden" not in changed:
        wide = 4 * fields["dim"]
        fields["hidden"] = -(-2 * wide // 3 // 64) * 64 if fields.get("gated", True) else wide


def _complete_recurrent(fields: dict[str, Any], settings: Pretrain) -> None:
    """The width of a state; and no to what only a Transformer has."""
    for name in ("heads", "kv_heads", "head_dim", "softcap", "recompute"):
        if getattr(settings, name):
            raise UsageError("E203", name, "a recurrent network has none", do="leave it out")
    if "hidden" not in fields:
        fields["hidden"] = state_width(fields["dim"], fields["kind"], fields["shape"])


def with_labels(
    model: Model,
    names: tuple[str, ...],
    family: Family,
    *,
    job: Job,
    several: bool,
    refuses: bool | None = None,
    dropout: float | None,
    seed: int,
) -> Model:
    """The body of a model with a new head of labels.

    Args:
        model: any; its head stays behind.
        names: of the labels.
        family: decides how a head for the job is made.
        job: classify, tag or span.
        several: whether any number of labels may hold.
        refuses: whether a question may have no answer; None where there are none.
        dropout: in training; None keeps the model's.
        seed: of the head's first weights.
    """
    judge = JUDGES[family.name, job]
    head = Labels(
        names=names, dense=bool(judge.dense), bias=judge.bias, several=several, refuses=refuses
    )
    return with_head(model, head, table=family.initial, dropout=dropout, seed=seed)
