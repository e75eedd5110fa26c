"""A vocabulary that has learned more: new entries for new text, every old id as it was.

Knows: byte-level BPE. What another training on the new text would merge and the old vocabulary
lacks is put behind the old merges, so old ones go first, as before.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer as Backend
from tokenizers import trainers

from yantai.base.errors import DataError, ModelFileError, UsageError
from yantai.text.tokenizer import MASK, Tokenizer


def extend(
    tokenizer: Tokenizer, texts: Iterable[str], entries: int, specials: tuple[str, ...] = ()
) -> Tokenizer:
    """Add entries that the texts call for.

    Args:
        tokenizer: byte-level BPE.
        texts: read once, as a stream.
        entries: how many; fewer come where the texts hold no more pairs worth merging.
        specials: control tokens that are added too, where they are missing.

    Raises:
        UsageError: the tokenizer is of another kind.
        DataError: there is no text.
    """
    table = json.loads(tokenizer.to_json())
    model = table["model"]
    if model.get("type") != "BPE" or tokenizer.bytes_of_ids is None:
        raise UsageError(
            "E203", "tokenizer", "cannot be extended",
            expected="byte-level BPE", got=model.get("type"),
        )  # fmt: skip
    free = tokenizer.vocab_size
    vocabulary: dict[str, int] = model["vocab"]
    # a control token that is no entry of the model would be numbered anew behind the new entries
    vocabulary |= {token["content"]: token["id"] for token in table["added_tokens"]}
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    for left, right in _merges_of(tokenizer, texts, len(vocabulary) + entries):
        if entries and left + right not in vocabulary and {left, right} <= vocabulary.keys():
            vocabulary[left + right] = free
            merges.append([left, right])
            free, entries = free + 1, entries - 1
    for name in specials:
        if name not in vocabulary:
            vocabulary[name] = free
            table["added_tokens"].append(_special(name, free))
            free += 1
    model["merges"] = merges
    settings = tokenizer.settings | ({"mask_token": MASK} if MASK in specials else {})
    return Tokenizer(Backend.from_str(json.dumps(table)), settings)


def extension_of(old: Tokenizer, new: Tokenizer, where: str) -> dict[int, list[int]]:
    """Each entry that only the new vocabulary has → the old ids that spelled its text.

    Args:
        old: the tokenizer of a model.
        new: one that it shall go on with.
        where: for the error.

    Raises:
        ModelFileError: E405, the new one gives an old id another meaning.
    """
    if old.hash == new.hash:
        return {}
    for id in range(old.vocab_size):
        if old.token(id) != new.token(id):
            raise _another(where, f"id {id} is {old.token(id)!r}", repr(new.token(id)))
    tables = [json.loads(each.to_json()) for each in (old, new)]
    for part in ("normalizer", "pre_tokenizer"):
        if tables[0][part] != tables[1][part]:
            raise _another(where, f"the same {part}", "another one")
    merges = [table["model"].get("merges", []) for table in tables]
    if merges[1][: len(merges[0])] != merges[0]:
        raise _another(where, "the same merges, and more", "others")
    spelled = {}
    number = {old.token(id): id for id in range(old.vocab_size)}
    for id in range(old.vocab_size, new.vocab_size):
        text = new.decode([id], skip_special=True)
        if "\ufffd" in text:  # a part of a character
            spelled[id] = [number[letter] for letter in new.token(id) if letter in number]
        else:
            spelled[id] = old.encode(text)
    return spelled


def _another(where: str, expected: str, got: str) -> ModelFileError:
    return ModelFileError(
        "E405", where, "the tokenizer is not that of the model, nor one that extends it",
        expected=expected, got=got, do="leave --tokenizer out; --new-entries extends its own",
    )  # fmt: skip


def _merges_of(tokenizer: Tokenizer, texts: Iterable[str], size: int) -> list[list[str]]:
    """The merges that a training on the texts alone would make, the most frequent first."""
    table = json.loads(tokenizer.to_json())
    table["added_tokens"] = []
    table["post_processor"] = None
    table["model"] |= {"vocab": {}, "merges": [], "unk_token": None}
    fresh = Backend.from_str(json.dumps(table))
    alphabet = sorted(_characters(tokenizer))
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    fresh.train_from_iterator(texts, trainer)
    learned = json.loads(fresh.to_str())["model"]
    if len(learned["vocab"]) <= len(alphabet):
        raise DataError("E305", "tokenizer", "there is no text to learn entries from")
    return [pair if isinstance(pair, list) else pair.split(" ") for pair in learned["merges"]]


def _characters(tokenizer: Tokenizer) -> set[str]:
    """The printable stand-ins of bytes that are entries of the vocabulary."""
    pieces = (tokenizer.token(id) for id in range(tokenizer.vocab_size))
    return {piece for piece in pieces if len(piece) == 1}


def _special(name: str, id: int) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": name, "special": True, **flags}
