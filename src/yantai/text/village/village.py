"""The corpus: documents, questions and dialogues of one village, in a stable order.

Knows the splits, the mixture of stories and portraits, and where planted things go. How stories
are made, told, checked or spoiled is known elsewhere.

Splits: "train"; "heldout_wording" (the same world and facts, other stories, told in reserved
wordings where there are any); "heldout_facts" (the strangers: other people with other facts).
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import count as count_from
from itertools import islice

from yantai.text.village.dialogues import KINDS, Talk
from yantai.text.village.dice import Dice
from yantai.text.village.lexicon import LANGUAGES
from yantai.text.village.plan import capacity, make_plan
from yantai.text.village.planting import (
    Bias,
    Canary,
    Planting,
    Thinning,
    near_copy,
    plan_planting,
    spoil,
)
from yantai.text.village.portraits import make_portrait, portrait_capacity
from yantai.text.village.questions import Question, closed_questions
from yantai.text.village.story import Story
from yantai.text.village.world import Company, World

SPLITS = ("train", "heldout_wording", "heldout_facts")
Row = dict[str, object]


def _known(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


class Village:
    """A seeded corpus of stories and portraits with exact truth.

    With the knobs at their defaults nothing is planted. `plots` (names) restricts the plot
    grammars, `portrait_share` is the share of portraits among the documents, and `company` says
    whom a hero's stories bring in: "anyone" alike, or best "friends" in every other story.
    `headings` puts a line above each story among the documents: its people and its plot.
    """

    def __init__(
        self,
        seed: int = 7,
        people: int = 24,
        bias: Bias | None = None,
        canaries: int = 0,
        duplicates: float = 0.0,
        dirt: float = 0.0,
        plots: tuple[str, ...] = (),
        portrait_share: float = 0.3,
        company: Company = "anyone",
        headings: bool = False,
    ) -> None:
        self.headings = headings
        self.seed, self.bias, self.plots = seed, bias, plots
        self.canaries, self.duplicates, self.dirt = canaries, duplicates, dirt
        self.portrait_share = portrait_share
        self.world = World(seed, people, company=company)
        if bias:
            self._demand_both_genders(bias)

    def _demand_both_genders(self, bias: Bias) -> None:
        found = {
            person.gender
            for person in self.world.people
            if self.world.value(person.item, "trade").group == bias.group
        }
        if len(found) < 2:
            raise ValueError(
                f"in the world of seed {self.seed} all people of the trade group {bias.group!r} "
                "have one gender; take another seed or group"
            )

    def world_of(self, split: str) -> World:
        """The world that the documents of a split tell of."""
        _known("split", split, SPLITS)
        if split != "heldout_facts":
            return self.world
        if not hasattr(self, "_strangers"):
            self._strangers = self.world.strangers()
        return self._strangers

    def story(self, index: int, language: str, split: str = "train") -> Story:
        """Story number `index` of a split."""
        _known("language", language, LANGUAGES)
        world = self.world_of(split)
        half = capacity(world.size, world.circles, self.plots) // 2
        if index >= half:
            raise IndexError(f"a split has {half} stories, {index} is too many: take more people")
        at = index + half if split == "heldout_wording" else index
        return self._wrap(f"story-{split}-{index}", at, split, "story", language, world)

    def portrait(self, index: int, language: str, split: str = "train") -> Story:
        """Portrait number `index` of a split."""
        _known("language", language, LANGUAGES)
        world = self.world_of(split)
        half = portrait_capacity(world.size) // 8 * 4
        if index >= half:
            raise IndexError(f"a split has {half} portraits, {index} is too many")
        at = index + half if split == "heldout_wording" else index
        return self._wrap(f"portrait-{split}-{index}", at, split, "portrait", language, world)

    def _wrap(
        self, key: str, index: int, split: str, kind: str, language: str, world: World
    ) -> Story:
        plan = (
            make_plan(index, world, self.plots) if kind == "story" else make_portrait(index, world)
        )
        return Story(
            f"{key}-{language}", index, split, kind, language, plan, world, self._dialogue_of
        )

    def _dialogue_of(self, story: Story) -> list[dict[str, str]]:
        return self._talk(story.language, story.split).of_story(story)

    def stories(
        self, count: int, language: str, split: str = "train", start: int = 0
    ) -> Iterator[Story]:
        """Stories start .. start+count-1 of a split; the knobs touch `documents` only."""
        return (self.story(index, language, split) for index in range(start, start + count))

    def portraits(
        self, count: int, language: str, split: str = "train", start: int = 0
    ) -> Iterator[Story]:
        """Portraits start .. start+count-1 of a split."""
        return (self.portrait(index, language, split) for index in range(start, start + count))

    def _stream(self, language: str, split: str) -> Iterator[Story]:
        """Stories and portraits mixed evenly; under a bias, thinned to its share."""
        thinning = Thinning(self.bias) if self.bias else None
        stories = (self.story(index, language, split) for index in count_from())
        portraits = (self.portrait(index, language, split) for index in count_from())
        told = 0
        for place in count_from():
            is_portrait = int((place + 1) * self.portrait_share) > told
            told += is_portrait
            source = portraits if is_portrait else stories
            yield next(s for s in source if thinning is None or thinning.passes(s.text, language))

    def planting(
        self, count: int, languages: tuple[str, ...] = LANGUAGES, split: str = "train"
    ) -> Planting:
        """What `documents` with the same arguments plants, and in which rows."""
        return plan_planting(self.seed, count, languages, self.canaries, self.duplicates, self.dirt)

    def documents(
        self, count: int, languages: tuple[str, ...] = LANGUAGES, split: str = "train"
    ) -> Iterator[Row]:
        """Rows {"id", "text", "language", "kind", "plot", "planted", "duplicate_of"}.

        The languages take turns. `planted` says what was done to a row, `duplicate_of` is the id
        of the row it copies.
        """
        _known("split", split, SPLITS)
        for language in languages:
            _known("language", language, LANGUAGES)
        streams = [self._stream(language, split) for language in languages]
        planting = self.planting(count, languages, split)
        wanted = {source for source, _ in planting.duplicates.values()}
        kept: dict[int, Story] = {}
        for number in range(count):
            story = next(streams[number % len(languages)])
            if number in wanted:
                kept[number] = story
            yield self._row(number, story, planting, kept)

    def _row(self, number: int, story: Story, planting: Planting, kept: dict[int, Story]) -> Row:
        row: Row = {
            "id": story.id,
            "text": self._headed(story),
            "language": story.language,
            "kind": story.kind,
            "plot": story.plot,
            "planted": [],
            "duplicate_of": None,
        }
        dice = Dice("spoil", self.seed, story.id)
        if number in planting.dirt:
            how = planting.dirt[number]
            row["text"] = spoil(list(story.sentences), how, story.language, dice)
            row["planted"] = [f"dirt:{how}"]
        elif number in planting.duplicates:
            source, how = planting.duplicates[number]
            original = kept[source]
            row |= {"kind": original.kind, "plot": original.plot, "duplicate_of": original.id}
            row["id"] = f"{story.id}-copy"
            row["text"] = near_copy(list(original.sentences), how, story.language)
            row["planted"] = [f"duplicate:{how}"]
        elif number in planting.canary_at:
            canary = planting.canary_at[number]
            pieces = list(story.sentences)
            pieces.insert(1 + dice.below(len(pieces)), canary.text)
            row["text"] = (" " if story.language == "en" else "").join(pieces)
            row["planted"] = [f"canary:{canary.secret}"]
        return row

    def _headed(self, story: Story) -> str:
        if not self.headings or story.kind != "story":
            return story.text
        return f"{story.heading}\n{story.text}"

    def canary_list(self, count: int, languages: tuple[str, ...] = LANGUAGES) -> tuple[Canary, ...]:
        """The canaries of `documents(count, languages)`."""
        return self.planting(count, languages).canaries

    def questions(self, language: str, wording: str = "train") -> list[Question]:
        """Closed-book questions: every fact of the world in every wording of that side."""
        _known("language", language, LANGUAGES)
        return list(closed_questions(self.world, language, wording))

    def open_questions(
        self, count: int, language: str, split: str = "heldout_facts"
    ) -> list[Question]:
        """Questions with a passage, from three stories and a portrait by turns of a split."""
        tellers = (self.story, self.story, self.story, self.portrait)
        told = (tellers[index % 4](index, language, split) for index in count_from())
        every = (question for story in told for question in story.questions)
        return list(islice(every, count))

    def _talk(self, language: str, split: str) -> Talk:
        world = self.world_of(split)
        # chat tells stories of its own: those of the upper half of the split
        start = capacity(world.size, world.circles, self.plots) // 4
        return Talk(
            world,
            language,
            split == "heldout_wording",
            lambda number: self.story(start + number, language, split),
        )

    def dialogues(
        self,
        count: int,
        languages: tuple[str, ...] = LANGUAGES,
        split: str = "train",
        kinds: Mapping[str, int] = KINDS,
    ) -> Iterator[Row]:
        """Chat rows {"messages", "language", "kind"}; the languages take turns.

        In "heldout_facts" nothing is asked that no passage answers.

        Args:
            count: how many rows.
            languages, split: of the rows.
            kinds: how often each kind of talk comes up, in any unit.
        """
        _known("split", split, SPLITS)
        talks = [self._talk(language, split) for language in languages]
        left_out = ("fact", "unknown", "identity") if split == "heldout_facts" else ()
        drawn = [k for k, often in kinds.items() for _ in range(often) if k not in left_out]
        for number in range(count):
            talk = talks[number % len(languages)]
            kind = Dice("kind", self.seed, number, split).pick(drawn)
            yield talk.row(number // len(languages), kind)
