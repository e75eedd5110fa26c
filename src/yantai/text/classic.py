"""Vocabularies as they were written before tokenizer.json: GPT-2's two files, and BERT's one.

Knows: vocab.json with merges.txt, and vocab.txt. What they leave unsaid is what GPT-2 and BERT do.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from yantai.base.errors import ModelFileError

END = "<|endoftext|>"
MAX_BYTES = 200_000_000


def read_classic(folder: Path) -> tuple[Backend, dict[str, Any]] | None:
    """The tokenizer that such files describe and its settings, or None where there are none.

    Raises:
        ModelFileError: E405, a file is damaged.
    """
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _gpt2(folder)
    if (folder / "vocab.txt").is_file():
        return _bert(folder)
    return None


def _gpt2(folder: Path) -> tuple[Backend, dict[str, Any]]:
    path = folder / "vocab.json"
    try:
        vocabulary = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelFileError("E405", path, f"not JSON ({error})") from error
    plain = isinstance(vocabulary, dict) and all(type(id) is int for id in vocabulary.values())
    if not plain or sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ModelFileError("E405", path, "not a table of entries with the ids 0, 1, 2, …")
    merges = []
    for number, line in enumerate(_text(folder / "merges.txt").split("\n"), start=1):
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            where = f"{folder / 'merges.txt'}:{number}"
            raise ModelFileError("E405", where, "no pair of entries that form one", got=line[:80])
        merges.append((pair[0], pair[1]))
    backend = Backend(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    settings = _settings(folder, ("GPT2", "PreTrained"))
    if END in vocabulary:
        backend.add_special_tokens([END])
        settings = {"bos_token": END, "eos_token": END, "unk_token": END} | settings
    return backend, settings


def _bert(folder: Path) -> tuple[Backend, dict[str, Any]]:
    path = folder / "vocab.txt"
    names = _text(path).removesuffix("\n").split("\n")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ModelFileError("E405", path, f"the entry {name!r} stands twice")
        seen.add(name)
    special = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name in names]
    if len(special) < 5:
        raise ModelFileError("E405", path, "not BERT's special tokens", got=", ".join(special))
    settings = _settings(folder, ("BERT", "PreTrained"))
    ids = {name: id for id, name in enumerate(names)}
    backend = Backend(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=bool(settings.get("do_lower_case", True)),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
    )
    names_of = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return backend, {f"{key}_token": name for key, name in names_of.items()} | settings


def read_settings(folder: Path) -> dict[str, Any]:
    """special_tokens_map.json and tokenizer_config.json, as far as they are there.

    Raises:
        ModelFileError: E405, one of them is damaged.
    """
    return _table(folder / "special_tokens_map.json") | _table(folder / "tokenizer_config.json")


def _table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        given = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelFileError("E405", path, f"not JSON ({error})") from error
    if not isinstance(given, dict):
        raise ModelFileError("E405", path, "not a table", got=type(given).__name__)
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise ModelFileError(
            "E405", path, f"holds what cannot be written as UTF-8 ({error})"
        ) from error
    return given


def _settings(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """What the folder says, if it says that the files are of this kind."""
    given = read_settings(folder)
    name = given.get("tokenizer_class")
    model_type = _table(folder / "config.json").get("model_type") if name is None else None
    kind = str(name or model_type or classes[0]).removesuffix("Fast").removesuffix("Tokenizer")
    if kind.lower() not in {each.lower() for each in classes}:
        raise ModelFileError(
            "E405", folder, "a vocabulary in an old form of another kind",
            expected=" or ".join(classes), got=kind,
            do="save it with a fast tokenizer: it writes tokenizer.json",
        )  # fmt: skip
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return given | plain


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError("E405", path, "too large", expected=f"under {MAX_BYTES:,} bytes")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError("E405", f"{path}: byte {error.start}", "not UTF-8") from error
