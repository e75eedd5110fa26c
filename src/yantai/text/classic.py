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
    settings = _settings(folder)
    if END in vocabulary:
        backend.add_special_tokens([END])
        settings = {"bos_token": END, "eos_token": END, "unk_token": END} | settings
    return backend, settings


def _bert(folder: Path) -> tuple[Backend, dict[str, Any]]:
    path = folder / "vocab.txt"
    names = _text(path).removesuffix("\n").split("\n")
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ModelFileError("E405", path, f"the entry {twice!r} stands twice")
    special = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name in names]
    if len(special) < 5:
        raise ModelFileError("E405", path, "not BERT's special tokens", got=", ".join(special))
    settings = _settings(folder)
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


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, if there is one."""
    path = folder / "tokenizer_config.json"
    given = {}
    if path.is_file():
        try:
            given = json.loads(_text(path))
        except (ValueError, RecursionError) as error:
            raise ModelFileError("E405", path, f"not JSON ({error})") from error
    if not isinstance(given, dict):
        raise ModelFileError("E405", path, "not a table", got=type(given).__name__)
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return given | plain


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError("E405", path, "too large", expected=f"under {MAX_BYTES:,} bytes")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError("E405", f"{path}: byte {error.start}", "not UTF-8") from error
