"""A tokenizer in the entries of a GGUF file, and back.

Knows: byte-level BPE whose pre-tokenizer llama.cpp knows by a name. Anything else would give other
ids there, and is refused.
"""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from yantai.base.errors import ModelFileError, UsageError
from yantai.text.tokenizer import TURN_END, Tokenizer
from yantai.text.vocabulary import QWEN2_PATTERN

LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
PATTERNS = {"qwen2": QWEN2_PATTERN, "llama-bpe": LLAMA3_PATTERN}
NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5
PREFIX = "tokenizer.ggml."
SPECIAL = ("bos", "eos", "pad")
NAMES = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}


def tokenizer_facts(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The entries of a tokenizer.

    Args:
        tokenizer: byte-level BPE.
        rows: of the embedding; entries that no text gives fill what is left.

    Raises:
        UsageError: llama.cpp would give other ids.
    """
    table = json.loads(tokenizer.to_json())
    name = _name_of(table)
    added = {each["id"]: each for each in table["added_tokens"]}
    spelled = {id: piece for piece, id in table["model"]["vocab"].items()}
    spelled |= {id: each["content"] for id, each in added.items()}
    kinds = {id: CONTROL if each["special"] else USER for id, each in added.items()}
    merges = table["model"]["merges"]
    probe = tokenizer.prompt("a")
    facts: dict[str, Any] = {
        "model": "gpt2",
        "pre": name,
        "tokens": [spelled.get(id, f"[PAD{id}]") for id in range(rows)],
        "token_type": [kinds.get(id, NORMAL) if id in spelled else UNUSED for id in range(rows)],
        "merges": [each if isinstance(each, str) else " ".join(each) for each in merges],
        "add_bos_token": probe[:1] == [tokenizer.bos_id],
        "add_eos_token": probe[-1:] == [tokenizer.eos_id],
        "add_space_prefix": False,
    }
    for each in SPECIAL:
        id = getattr(tokenizer, f"{each}_id")
        if id is not None:
            facts[NAMES[each]] = id
    turn_end = tokenizer.control.get(TURN_END)
    if turn_end is not None:
        facts["eot_token_id"] = turn_end
    facts = {PREFIX + key: value for key, value in facts.items()}
    template = tokenizer.chat_template
    return facts | ({"tokenizer.chat_template": template} if template else {})


def _name_of(table: dict[str, Any]) -> str:
    """What llama.cpp calls the way in which a text is cut."""
    model, before, normal = (table.get(key) for key in ("model", "pre_tokenizer", "normalizer"))
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = model.get("type") if isinstance(model, dict) else None
        if kind == "BPE":
            kind = "BPE with byte fallback, as SentencePiece has it"
        raise _unknown("tokenizer.json:model", "byte-level BPE", kind)
    if normal is not None:
        raise _unknown("tokenizer.json:normalizer", "none", normal.get("type"))
    odd = [key for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
           if model.get(key)]  # fmt: skip
    if odd:
        raise _unknown(f"tokenizer.json:model.{odd[0]}", "none", model[odd[0]])
    found = None
    parts = before.get("pretokenizers") if isinstance(before, dict) else None
    if isinstance(before, dict) and before.get("type") == "ByteLevel":
        whole = before.get("use_regex", True) and not before.get("add_prefix_space")
        found = "gpt-2" if whole else None
    elif parts and [each.get("type") for each in parts] == ["Split", "ByteLevel"]:
        split, plain = parts
        pattern = split["pattern"].get("Regex")
        usual = split.get("behavior") == "Isolated" and not split.get("invert")
        bare = not plain.get("use_regex", True) and not plain.get("add_prefix_space")
        names = [name for name, each in PATTERNS.items() if each == pattern]
        found = names[0] if names and usual and bare else None
    if found is None:
        raise _unknown("tokenizer.json:pre_tokenizer", "one that llama.cpp knows: Qwen2's, Llama "
                       "3's or GPT-2's", None)  # fmt: skip
    if bool(model.get("ignore_merges")) != (found == "llama-bpe"):
        wanted = "true" if found == "llama-bpe" else "false"
        raise _unknown("tokenizer.json:model.ignore_merges", wanted, model.get("ignore_merges"))
    return found


def _unknown(where: str, expected: str, got: Any) -> UsageError:
    return UsageError(
        "E203", where, "llama.cpp would give other ids", expected=expected, got=got,
        do="a tokenizer of `yantai tokenizer` (kind bpe) can be written",
    )  # fmt: skip


def tokenizer_of(facts: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer of a file.

    Raises:
        ModelFileError: the file has none, or one of a kind that is not read.
    """

    def entry(name: str, kind: type | tuple[type, ...]) -> Any:
        value = facts.get(PREFIX + name)
        if not isinstance(value, kind):
            raise ModelFileError("E405", f"{where}:{PREFIX}{name}", "missing, or of another type")
        return value

    if entry("model", str) != "gpt2":
        raise ModelFileError(
            "E405", f"{where}:{PREFIX}model", "a kind of tokenizer that is not read",
            expected="gpt2 (byte-level BPE)", got=facts[PREFIX + "model"],
        )  # fmt: skip
    pieces, kinds = entry("tokens", list), entry("token_type", list)
    if len(kinds) != len(pieces) or not all(isinstance(each, str) for each in pieces):
        raise ModelFileError("E405", f"{where}:{PREFIX}token_type", "not one for each token")
    if len(set(pieces)) < len(pieces):
        raise ModelFileError("E405", f"{where}:{PREFIX}tokens", "the same one twice")
    parts = [str(each).partition(" ") for each in entry("merges", list)]
    merges = [(left, right) for left, _, right in parts]
    plain = {piece: id for id, (piece, kind) in enumerate(zip(pieces, kinds, strict=True))
             if kind == NORMAL}  # fmt: skip
    name = entry("pre", str)
    try:
        backend = Backend(models.BPE(plain, merges, ignore_merges=name == "llama-bpe"))
    except Exception as error:  # the library raises bare Exception
        raise ModelFileError("E405", f"{where}:{PREFIX}merges", str(error)) from error
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if name == "gpt-2":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif name in PATTERNS:
        split = pre_tokenizers.Split(Regex(PATTERNS[name]), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, bare])
    else:
        known = ", ".join((*PATTERNS, "gpt-2"))
        raise ModelFileError("E405", f"{where}:{PREFIX}pre", "a way of cutting texts that is not "
                             "read", expected=known, got=name)  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    return _with_specials(backend, pieces, kinds, facts, where)


def _with_specials(
    backend: Backend, pieces: list[str], kinds: list[int], facts: Mapping[str, Any], where: str
) -> Tokenizer:
    """Tokens beside the vocabulary, and what stands at the ends of a text."""
    # ids are given in the order of adding, behind the vocabulary: a JSON table says them itself
    table = json.loads(backend.to_str())
    beside = [(id, piece, kind) for id, (piece, kind) in enumerate(zip(pieces, kinds, strict=True))
              if kind in (CONTROL, USER)]  # fmt: skip
    table["model"]["vocab"] |= {piece: id for id, piece, _ in beside}
    backend = Backend.from_str(json.dumps(table))
    backend.add_tokens([AddedToken(piece, normalized=False) for _, piece, kind in beside
                        if kind == USER])  # fmt: skip
    backend.add_special_tokens([piece for _, piece, kind in beside if kind == CONTROL])
    settings: dict[str, Any] = {}
    for each in SPECIAL:
        id = facts.get(PREFIX + NAMES[each])
        if id is not None and (type(id) is not int or not 0 <= id < len(pieces)):
            raise ModelFileError("E405", f"{where}:{PREFIX}{NAMES[each]}", "no token", got=id)
        settings[f"{each}_token"] = None if id is None else pieces[id]
    first, last = (settings[f"{each}_token"] if facts.get(f"{PREFIX}add_{each}_token") else None
                   for each in ("bos", "eos"))  # fmt: skip
    if first or last:
        form = " ".join(part for part in (first, "$A", last) if part)
        ends = [(token, pieces.index(token)) for token in (first, last) if token]
        backend.post_processor = processors.TemplateProcessing(single=form, special_tokens=ends)
    template = facts.get("tokenizer.chat_template")
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    return Tokenizer(backend, settings | ({"chat_template": template} if template else {}))
