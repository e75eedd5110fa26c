"""Yantai: own a language model for its whole life. This file is the package's public face.

Nothing heavy is imported until it is used, and nothing is ever fetched at import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from yantai.base.errors import YantaiError
from yantai.base.waiting import wait_briefly

wait_briefly()  # torch is not imported yet

if TYPE_CHECKING:
    from yantai.infer.answer import answer
    from yantai.infer.classify import classify
    from yantai.infer.embed import embed
    from yantai.infer.fill import fill
    from yantai.infer.language_model import LanguageModel
    from yantai.infer.opening import load
    from yantai.infer.rewrite import summarize, translate
    from yantai.infer.tag import tag
    from yantai.life.train import train

__version__ = "0.1.0"
__all__ = [
    "LanguageModel",
    "YantaiError",
    "__version__",
    "answer",
    "classify",
    "embed",
    "fill",
    "load",
    "summarize",
    "tag",
    "train",
    "translate",
]

_LAZY = {
    "answer": "yantai.infer.answer",
    "classify": "yantai.infer.classify",
    "embed": "yantai.infer.embed",
    "fill": "yantai.infer.fill",
    "load": "yantai.infer.opening",
    "summarize": "yantai.infer.rewrite",
    "tag": "yantai.infer.tag",
    "translate": "yantai.infer.rewrite",
    "LanguageModel": "yantai.infer.language_model",
    "train": "yantai.life.train",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'yantai' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
