"""The table of families. A new one is a line here; the contract test runs over it."""

from yantai.base.config import look_up
from yantai.base.errors import ModelFileError
from yantai.families.bart import BART
from yantai.families.bert import BERT, ROBERTA
from yantai.families.gpt2 import GPT2
from yantai.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from yantai.families.own import GRU, GRU_SEQ2SEQ, LSTM, RNN
from yantai.families.rules import Family
from yantai.families.t5 import MT5, T5

_ALL = (
    *(LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, BERT, ROBERTA, T5, MT5, BART),
    *(RNN, LSTM, GRU, GRU_SEQ2SEQ),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


def family_named(name: str) -> Family:
    """The family of that name.

    Raises:
        UsageError: no such family; the message names the nearest.
    """
    return look_up(FAMILIES, name, "family")


def family_of(model_type: object, where: str) -> Family:
    """The family that a config.json names.

    Raises:
        ModelFileError: the file names none, or one that is not supported.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelFileError(
            "E402",
            f"{where}:model_type",
            "a model type that is not supported",
            expected=" or ".join(FAMILIES),
            got=model_type,
            do="convert the model to one of these",
        )
    return FAMILIES[model_type]
