"""The village: a small bilingual world of stories with exact truth.

This is its only public face. `Village(seed=7)` gives documents, questions and dialogues in
English and Chinese; `check` says whether a text agrees with a world and with itself.
"""

from yantai.text.village.checker import Problem, Verdict, check
from yantai.text.village.planting import Bias, Canary, Planting, measure_bias
from yantai.text.village.questions import Question, grade
from yantai.text.village.report import distinct_share, vocabulary_report
from yantai.text.village.story import Story
from yantai.text.village.village import SPLITS, Village
from yantai.text.village.world import RELATIONS, Fact, Person, World

__all__ = [
    "RELATIONS",
    "SPLITS",
    "Bias",
    "Canary",
    "Fact",
    "Person",
    "Planting",
    "Problem",
    "Question",
    "Story",
    "Verdict",
    "Village",
    "World",
    "check",
    "distinct_share",
    "grade",
    "measure_bias",
    "vocabulary_report",
]
