"""From documents to a trained model: tokenizer, shards, rows, model.

Knows: the order of these stages and where their folders lie below the run's. Each stage is done
elsewhere; a stage that an interrupted run had finished is not done again.

    RUN/recipe.json  tokenizer/  tokens/train  tokens/valid  checkpoints/  metrics.jsonl
    RUN/model/ (best by validation)  last/  loss.svg  receipt.json
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from yantai.base.device import choose_device, prepare_process, tiny_is_zero
from yantai.base.errors import UsageError
from yantai.base.files import FolderLock, new_folder, sha256_file
from yantai.base.log import counted, say
from yantai.core.initialise import build
from yantai.data.loader import Loader
from yantai.data.pack import RowSource, TextRows
from yantai.data.shards import Shards, write_shards
from yantai.families.folder import CONFIG, read_config_json
from yantai.families.hub import local_folder
from yantai.families.rules import Family
from yantai.families.table import family_named, family_of
from yantai.tasks.table import OBJECTIVES, make_task, objective_named
from yantai.text.chat import CHATML
from yantai.text.document import DocumentReader
from yantai.text.extension import extend
from yantai.text.reading_empty import no_text
from yantai.text.tokenizer import MASK, Tokenizer
from yantai.training.network import check_continued, continued, model_config
from yantai.training.recipe import Pretrain
from yantai.training.run_folder import begin_run, check_resumable
from yantai.training.setup import (
    Report,
    Setup,
    fill_in,
    run_training,
    validation_batches,
)

HELD_OUT_SHARE = 0.02
HELD_OUT_MINIMUM = 20


@tiny_is_zero()
def pretrain(settings: Pretrain, report: Report | None = None) -> dict[str, Any]:
    """Run `yantai pretrain`; returns what `--json` prints.

    Args:
        settings: the recipe.
        report: is told (step, score) of every validation, and may end the run by raising.

    Raises:
        YantaiError: see contracts; nothing that was there before is lost.
    """
    if settings.new_entries and settings.from_ is None:
        raise UsageError("E203", "new_entries", "needs a model to go on with", do="give --from")
    prepare_process(settings.threads, deterministic=settings.deterministic)
    if settings.from_ is not None:
        settings = settings.model_copy(update={"from_": local_folder(settings.from_)})
        check_continued(settings)
    family = _family(settings)
    objective = objective_named(
        settings.objective, family.fixed()["shape"], whole_words=settings.whole_words
    )
    settings = settings.model_copy(update={"family": family.name, "objective": objective})
    settings = fill_in(settings)
    check_resumable(settings)
    with FolderLock(settings.out):
        if not settings.data and not settings.resume:
            raise UsageError("E201", "--data", "no documents are named", do="give files or folders")
        begin_run(settings)
        device = choose_device(settings.device)
        tokenizer = _tokenizer(settings)
        train, valid = _shards(settings, tokenizer)
        start_id = None
        if settings.from_ is not None:
            model, start_id = continued(settings, tokenizer, device)
        else:
            config = model_config(settings, family, tokenizer.vocab_size)
            model = build(config, seed=settings.seed, table=family.initial, device=device)

        task = make_task(
            objective, tokenizer, settings.seed, start_id, whole_words=settings.whole_words
        )
        setup = Setup(
            model=model,
            family=family,
            tokenizer=tokenizer,
            settings=settings,
            folder=settings.out,
            parent={"tokens": [shards.hash for shards in train], "tokenizer": tokenizer.hash},
            identity=_identity(settings, [*train, *valid]),
            task=task,
            start_id=getattr(task, "start_id", None),
            report=report,
        )
        assert settings.context is not None
        sources, held_out = _row_sources(train, valid, settings)
        return run_training(
            setup,
            Loader(
                [task.rows(source) for source in sources],
                settings.batch or 1,
                accumulate=settings.accumulate,
                weights=settings.weights or None,
                seed=settings.seed,
            ),
            validation_batches(task.rows(held_out) if held_out else None, settings),
        )


def _identity(settings: Pretrain, shards: list[Shards]) -> dict[str, Any]:
    """What must not change over a resume, beside the settings."""
    identity: dict[str, Any] = {"data": [each.hash for each in shards]}
    if settings.whole_words:  # what is a word in Chinese is said by a dictionary
        identity["words"] = f"rjieba {version('rjieba')}"
    return identity


def _family(settings: Pretrain) -> Family:
    """That of the model to continue, or the named one."""
    if settings.from_ is None:
        return family_named(settings.family)
    theirs = read_config_json(settings.from_)
    return family_of(theirs.get("model_type"), str(settings.from_ / CONFIG))


def _tokenizer(settings: Pretrain) -> Tokenizer:
    """The one that was given, that of the model to continue, the run's own, or a new one."""
    own = settings.out / "tokenizer"
    source = settings.tokenizer or settings.from_ or (own if own.is_dir() else None)
    made = not own.is_dir()
    if source is not None:
        tokenizer = Tokenizer.load(source)
        if settings.new_entries:
            before = Tokenizer.load(own) if own.is_dir() else tokenizer
            made = before.vocab_size == tokenizer.vocab_size  # not by this run, earlier
            tokenizer = _extended(tokenizer, settings) if made else before
    else:
        say(f"training a tokenizer of {settings.vocab_size:,} entries")
        first, reader = (_reader(settings, settings.data) for _ in range(2))
        if not any(document.text.strip() for document in first):
            raise no_text(first)
        texts = (document.text for document in reader)
        assert settings.objective is not None
        tokenizer = Tokenizer.train(
            texts,
            settings.vocab_size,
            settings.token_kind,
            settings.token_bytes,
            OBJECTIVES[settings.objective].specials,
        )
        tokenizer.chat_template = CHATML
    if made:
        with new_folder(own) as folder:
            tokenizer.save(folder)
    return tokenizer


def _extended(tokenizer: Tokenizer, settings: Pretrain) -> Tokenizer:
    """The tokenizer with entries that the data call for, and the tokens of the objective."""
    assert settings.objective is not None
    texts = (document.text for document in _reader(settings, settings.data))
    wanted = OBJECTIVES[settings.objective].specials
    has_them = tokenizer.mask_id is not None if MASK in wanted else bool(tokenizer.span_ids)
    specials = () if has_them else wanted
    longer = extend(tokenizer, texts, settings.new_entries, specials)
    say(f"tokenizer: {longer.vocab_size - tokenizer.vocab_size:,} new entries")
    return longer


def _reader(settings: Pretrain, paths: tuple[Path, ...]) -> DocumentReader:
    quarantine = settings.out / "quarantine" if settings.on_bad_row == "quarantine" else None
    return DocumentReader(
        list(paths),
        text_field=settings.text_field,
        policy=settings.on_bad_row,
        quarantine=quarantine,
        encoding=settings.encoding,
    )


def _shards(settings: Pretrain, tokenizer: Tokenizer) -> tuple[list[Shards], list[Shards]]:
    """Token shards of the training and validation documents; one set a path if weighted."""
    groups = [(path,) for path in settings.data] if settings.weights else [settings.data]
    train = [
        _shard(settings, tokenizer, paths, f"train-{number}" if settings.weights else "train")
        for number, paths in enumerate(groups)
    ]
    valid = [_shard(settings, tokenizer, settings.valid, "valid")] if settings.valid else []
    return train, valid


def _shard(settings: Pretrain, tokenizer: Tokenizer, paths: tuple[Path, ...], name: str) -> Shards:
    folder = settings.out / "tokens" / name
    if folder.is_dir() and "data" not in settings.allow_change:
        shards = Shards.open(folder)
        if shards.tokenizer_hash == tokenizer.hash:
            _check_sources(shards)
            return shards
    reader = _reader(settings, paths)
    shards = write_shards(reader, tokenizer, folder, sources=reader.sources, account=reader.account)
    say(
        f"{name}: {counted(shards.document_count, 'document')}, {shards.token_count:,} tokens, "
        f"{shards.byte_count / max(1, shards.token_count):.2f} bytes a token"
    )
    return shards


def _check_sources(shards: Shards) -> None:
    """A resumed run goes on with the text that it began with.

    Raises:
        UsageError: E205, a source file is not the one that was read.
    """
    for source in shards.manifest["sources"]:
        path = Path(source["path"])
        if not path.is_file():
            say(f"note: {path} is no longer there; its tokens are")
            continue
        facts = path.stat()
        if (facts.st_size, facts.st_mtime_ns) == (source["size"], source["mtime_ns"]):
            continue
        if sha256_file(path) != source["sha256"]:
            raise UsageError(
                "E205",
                path,
                "the file has changed since the run read it",
                do="restore it, give --allow-change data, or begin again with another --out",
            )


def _row_sources(
    train: list[Shards], valid: list[Shards], settings: Pretrain
) -> tuple[list[RowSource], TextRows | None]:
    """Rows to train on, and rows to validate on: the given ones, or documents held out."""
    context, seed = settings.context or 1, settings.seed
    if valid:
        sources = [TextRows(shards, context, seed=seed) for shards in train]
        return list(sources), TextRows(valid[0], context, shuffle=False)
    first, rest = train[0], train[1:]
    chosen, held = hold_out(first.document_count, seed)
    if not len(held):
        say("note: too few documents to hold some out; RUN/model will be the last weights")
    sources = [TextRows(first, context, seed=seed, documents=chosen)]
    sources += [TextRows(shards, context, seed=seed) for shards in rest]
    rows = TextRows(first, context, documents=held, shuffle=False) if len(held) else None
    return list(sources), rows


def hold_out(documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Document numbers for training and for validation, a function of the seed."""
    if documents < HELD_OUT_MINIMUM:
        return np.arange(documents), np.arange(0)
    order = np.random.Generator(np.random.Philox(seed)).permutation(documents)
    size = max(1, int(documents * HELD_OUT_SHARE))
    return np.sort(order[size:]), np.sort(order[:size])
