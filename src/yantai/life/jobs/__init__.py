"""The jobs that `yantai finetune` teaches: rows → examples → predictions → scores beside floors."""

from collections.abc import Callable

from yantai.life.jobs.chat import ChatJob
from yantai.life.jobs.choose import ChooseJob
from yantai.life.jobs.classify import ClassifyJob
from yantai.life.jobs.embed import EmbedJob
from yantai.life.jobs.job import Job
from yantai.life.jobs.prefer import PreferJob
from yantai.life.jobs.span import SpanJob
from yantai.life.jobs.summarize import SummarizeJob
from yantai.life.jobs.tag import TagJob
from yantai.life.jobs.translate import TranslateJob
from yantai.training.recipe import Finetune

JOBS: dict[str, Callable[[Finetune], Job]] = {
    "classify": ClassifyJob,
    "tag": TagJob,
    "span": SpanJob,
    "translate": TranslateJob,
    "summarize": SummarizeJob,
    "chat": ChatJob,
    "prefer": PreferJob,
    "embed": EmbedJob,
}
"""--task → its job; a new one is a file here and a line."""

MEASURED: dict[str, Callable[[Finetune], Job]] = JOBS | {"choose": ChooseJob}
"""evaluate's --task → its job: what can be taught, and what is only measured."""
