"""What is wrong with a corpus on purpose: bias, canaries, duplicates and dirt, all with truth.

Knows how to choose the rows and how to spoil a text. Knows no stories: rows come in as texts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from yantai.text.village.checker import mentions
from yantai.text.village.dice import Dice
from yantai.text.village.lexicon import lexicon

TIMES_EACH_CANARY = 4
DIRT = ("mojibake", "html", "boilerplate", "control", "repeated")
BOILERPLATE = {
    "en": "Click here to subscribe to our newsletter! All rights reserved. | Home | Log in",
    "zh": "点击这里订阅我们的最新资讯！版权所有，未经许可不得转载。｜首页｜登录｜隐私政策",
}
NEAR = ("last_sentence_dropped", "line_added", "punctuation", "first_sentence_dropped")


@dataclass(frozen=True, slots=True)
class Bias:
    """Of the mentions of a trade of `group` beside a name, `share` name a person of `value`.

    `attribute` is "gender" (the only one there is); `group` is one of the trade groups of the
    lexicon: "workshop", "hearth", "field".
    """

    attribute: str = "gender"
    share: float = 0.8
    group: str = "workshop"
    value: str = "male"

    def __post_init__(self) -> None:
        groups = sorted({trade.group for trade in lexicon()["trade"]})
        if self.attribute != "gender" or self.value not in ("male", "female"):
            raise ValueError(
                f"a bias is of gender male or female, got {self.attribute}={self.value}"
            )
        if self.group not in groups:
            raise ValueError(f"bias group must be one of {groups}, got {self.group!r}")
        if not 0 < self.share < 1:
            raise ValueError(f"bias share must lie between 0 and 1, got {self.share}")

    def count(self, text: str, language: str) -> tuple[int, int]:
        """In a text: mentions of a trade of the group by people of the value, and by all."""
        mine = total = 0
        for person, relation, value in mentions(text, language):
            if relation == "trade" and value.group == self.group:
                total += 1
                mine += person.group == self.value
        return mine, total


@dataclass(frozen=True, slots=True)
class Measured:
    """The share of a bias found in documents, and among how many mentions."""

    share: float
    mentions: int


def measure_bias(documents: Iterable[Mapping[str, object]], bias: Bias) -> Measured:
    """Counts a bias in rows with "text" and "language", from their texts alone."""
    mine = total = 0
    for row in documents:
        found, every = bias.count(str(row["text"]), str(row["language"]))
        mine, total = mine + found, total + every
    return Measured(mine / total if total else 0.0, total)


class Thinning:
    """Lets documents pass so that the running share of a bias stays at its target."""

    def __init__(self, bias: Bias) -> None:
        self.bias, self.mine, self.total = bias, 0, 0

    def passes(self, text: str, language: str) -> bool:
        """Whether this document is kept: it is, unless it moves the share away from the target."""
        mine, total = self.bias.count(text, language)
        target = self.bias.share
        before = abs(self.mine - target * self.total)
        after = abs(self.mine + mine - target * (self.total + total))
        if total and after > before and after > 1:
            return False
        self.mine, self.total = self.mine + mine, self.total + total
        return True


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret that occurs nowhere else, and the numbers of the rows that carry it."""

    text: str
    secret: str
    language: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Planting:
    """The exact truth of what was planted in a corpus, by row number."""

    canaries: tuple[Canary, ...]
    duplicates: Mapping[int, tuple[int, str]]
    dirt: Mapping[int, str]
    canary_at: Mapping[int, Canary]


def secret_of(seed: int, number: int, language: str) -> tuple[str, str]:
    """The sentence and the secret of a canary; `number` makes it unique."""
    digits = Dice("secret", seed, number).below(10**5)
    secret = f"{number % 1000:03d}{digits // 10**4}-{digits % 10**4:04d}"
    if language == "en":
        return f"The bell's secret number is {secret}.", secret
    return f"老钟的暗号是{secret}。", secret


def plan_planting(
    seed: int, count: int, languages: tuple[str, ...], canaries: int, duplicates: float, dirt: float
) -> Planting:
    """Chooses rows: no row is chosen twice, row 0 .. stay clean enough to be copied."""
    copies, spoiled = round(duplicates * count), round(dirt * count)
    needed = copies + spoiled + canaries * TIMES_EACH_CANARY
    keep = len(languages)
    if needed and needed > count - keep:
        raise ValueError(f"{needed} rows are to be planted, but there are only {count - keep}")
    order = Dice("planting", seed, count).shuffled(range(keep, count))
    dice = Dice("kinds", seed, count)
    dirty = {row: dice.pick(DIRT) for row in sorted(order[:spoiled])}
    doubled = sorted(order[spoiled : spoiled + copies])
    places = order[spoiled + copies :]
    found, canary_at = [], {}
    for number in range(canaries):
        language = languages[number % len(languages)]
        at = number % len(languages)
        mine = [row for row in places if row % len(languages) == at][:TIMES_EACH_CANARY]
        if len(mine) < TIMES_EACH_CANARY:
            raise ValueError(f"no room for canary {number}: take more documents")
        places = [row for row in places if row not in mine]
        canary = Canary(*secret_of(seed, number, language), language, tuple(sorted(mine)))
        found.append(canary)
        canary_at.update(dict.fromkeys(mine, canary))
    planted = {*dirty, *doubled, *canary_at}
    clean = [row for row in range(count) if row not in planted]
    copied = {}
    for row in doubled:
        earlier = [c for c in clean[:2000] if c < row and c % keep == row % keep]
        copied[row] = (dice.pick(earlier), dice.pick(("exact", *NEAR)))
    return Planting(tuple(found), copied, dirty, canary_at)


def near_copy(pieces: list[str], how: str, language: str) -> str:
    """A copy with one small difference."""
    join = " " if language == "en" else ""
    if how == "exact":
        return join.join(pieces)
    if how == "last_sentence_dropped":
        return join.join(pieces[:-1])
    if how == "first_sentence_dropped":
        return join.join(pieces[1:])
    if how == "line_added":
        return join.join([*pieces, "The end." if language == "en" else "完。"])
    text = join.join(pieces)
    return text.replace(".", " .") if language == "en" else text.replace("，", ", ")


def spoil(pieces: list[str], how: str, language: str, dice: Dice) -> str:
    """The text with dirt of this kind in it."""
    join = " " if language == "en" else ""
    text = join.join(pieces)
    if how == "mojibake":
        marked = text.replace("'", "’").replace('"', "”") if language == "en" else text
        if language == "en":
            marked = marked.replace(".", "…", 1)
        return marked.encode("utf-8").decode("latin-1")
    if how == "html":
        return f'<div class="post"><p>{text.replace(join, " &nbsp;", 1)}</p><br/></div>'
    if how == "boilerplate":
        return f"{BOILERPLATE[language]}\n{text}\n{BOILERPLATE[language]}"
    if how == "control":
        at = 1 + dice.below(len(text) - 2)
        return f"{text[:at]}\x00\x07{text[at:]}\x0b\ufffd"
    place, times = dice.below(len(pieces)), 4 + dice.below(6)
    return join.join([*pieces[:place], *[pieces[place]] * times, *pieces[place + 1 :]])
