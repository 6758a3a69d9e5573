"""Arithmetic word problems of three or four small additions and subtractions, made from a seed.

    Priya has 14 beads. She finds 6 more beads. Then she gives 5 beads to Omar. ...

Question *i* comes from `Random` seeded with (seed, i) alone, so a longer list only adds to a shorter
one; the answer is computed along the way. Names, things and wording are our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cotdistill.records import Question

MOST = 20  # a small student learns the sums below it from a few hundred examples

PEOPLE = (
    *(("Priya", "She"), ("Omar", "He"), ("Lena", "She"), ("Mateo", "He"), ("Aiko", "She")),
    *(("Tobias", "He"), ("Zara", "She"), ("Kwame", "He"), ("Ines", "She"), ("Ravi", "He")),
    *(("Freya", "She"), ("Diego", "He"), ("Nadia", "She"), ("Emeka", "He"), ("Sofia", "She")),
    *(("Yusuf", "He"), ("Clara", "She"), ("Hiro", "He"), ("Maya", "She"), ("Anton", "He")),
)


@dataclass(frozen=True)
class Story:
    """One family of problems; `{name} {she} {friend} {thing} {n}` are filled in."""

    things: tuple[str, ...]
    opening: str
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    ending: str


STORIES = (
    Story(
        ("beads", "marbles", "stickers", "shells", "buttons", "postcards"),
        "{name} has {n} {thing}.",
        (
            "{she} finds {n} more {thing}.",
            "{friend} gives {name} {n} {thing}.",
            "{she} buys {n} {thing} at the market.",
        ),
        (
            "{she} gives {n} {thing} to {friend}.",
            "{she} loses {n} {thing} on the way home.",
            "{she} swaps {n} {thing} for a comic book.",
        ),
        "How many {thing} does {name} have now?",
    ),
    Story(
        ("passengers",),
        "A bus leaves the harbour with {n} {thing}.",
        ("At the next stop {n} {thing} get on.", "At the school {n} more {thing} get on."),
        ("At the library {n} {thing} get off.", "At the market square {n} {thing} get off."),
        "How many {thing} are on the bus now?",
    ),
    Story(
        ("rolls", "muffins", "pretzels", "scones", "bagels"),
        "{name} runs a small bakery and starts the day with {n} {thing}.",
        ("{she} bakes {n} more {thing}.", "A helper brings in {n} {thing}."),
        (
            "A customer buys {n} {thing}.",
            "{she} sells {n} {thing} to a cafe.",
            "{she} drops {n} {thing} and throws them away.",
        ),
        "How many {thing} are left in the bakery?",
    ),
    Story(
        ("dollars",),
        "{name} has saved {n} {thing}.",
        (
            "{she} earns {n} {thing} by walking a dog.",
            "{she} gets {n} {thing} from an aunt.",
            "{friend} pays back {n} {thing}.",
        ),
        (
            "{she} spends {n} {thing} on a book.",
            "{she} pays {n} {thing} for a bus ticket.",
            "{she} lends {n} {thing} to {friend}.",
        ),
        "How many {thing} does {name} have at the end?",
    ),
    Story(
        ("ducks", "frogs", "geese", "turtles"),
        "There are {n} {thing} at the pond in the morning.",
        ("Before noon {n} more {thing} arrive.", "Later {n} {thing} join them."),
        ("Then {n} {thing} leave the pond.", "In the afternoon {n} {thing} go away."),
        "How many {thing} are at the pond in the evening?",
    ),
    Story(
        ("apples", "plums", "lemons", "pears", "tomatoes"),
        "{name} puts {n} {thing} into a basket.",
        ("{she} picks {n} more {thing} and adds them.", "{friend} adds {n} {thing} to the basket."),
        (
            "{friend} takes {n} {thing} out of the basket.",
            "{she} uses {n} {thing} to cook.",
            "{she} eats {n} {thing}.",
        ),
        "How many {thing} are in the basket now?",
    ),
    Story(
        ("books", "films", "games"),
        "A library shelf holds {n} {thing}.",
        ("{name} brings back {n} {thing}.", "The librarian adds {n} new {thing}."),
        ("{friend} borrows {n} {thing}.", "{n} old {thing} are taken away for repair."),
        "How many {thing} are on the shelf now?",
    ),
)


def make_question(seed: str, i: int) -> Question:
    """The `i`-th problem of `seed`: a start of 5 to 12, then 3 or 4 steps of 2 to 6, always within 1 to 20."""
    random = Random(f"word_problems/{seed}/{i}")
    story = random.choice(STORIES)
    (name, she), (friend, _) = random.sample(PEOPLE, 2)
    words = {"name": name, "she": she, "friend": friend, "thing": random.choice(story.things)}

    total = random.randint(5, 12)
    sentences = [story.opening.format(n=total, **words)]
    for _ in range(random.choice((3, 3, 4))):
        n = random.randint(2, 6)
        gain = total <= n or (total + n <= MOST and random.random() < 0.5)
        total += n if gain else -n
        sentences.append(random.choice(story.gains if gain else story.losses).format(n=n, **words))
    sentences.append(story.ending.format(**words))
    return Question(id=f"word_problems-{seed}-{i}", text=" ".join(sentences), answer=str(total))
