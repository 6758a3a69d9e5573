"""Every question of a page with what was written for it, and which of them are shown where not all fit.

rows = test_rows(page)
shown = fit(rows, ..., room=3_000_000)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from cotdistill.records import Generation, Question, Score
from cotdistill.reports.showing import shortened, visible
from cotdistill.reports.spans import Span, answer_span
from cotdistill.results.mistakes import Mistake

if TYPE_CHECKING:
    from cotdistill.reports.report import Page

SEED = 0  # of what is shown where not all fits
TEACHER = "teacher"  # whose mistakes are those of rationales
NOTHING = ("not_asked", "not_scored", "error")  # categories that say nothing about right and wrong


@dataclass(frozen=True)
class Answer:
    """What one method, or the teacher, wrote for one question.

    `category` is `not_asked` where it wrote nothing; `fate` is what became of a rationale: kept, or why it was
    dropped. `span` is where its answer was read from, and in which text: `answer_text`, else `text`.
    """

    key: str
    category: str
    generation: Generation | None = None
    score: Score | None = None
    fate: str = ""
    mistakes: tuple[Mistake, ...] = ()
    span: tuple[bool, Span] | None = None


@dataclass(frozen=True)
class Row:
    """A question and its answers, the first of a method being the one that counts.

    `divided`: some methods are right and others are not, or some of the teacher's samples.
    """

    question: Question
    answers: Sequence[Answer]

    @property
    def divided(self) -> bool:
        first = {answer.key: answer for answer in reversed(self.answers)}.values()  # of several samples
        said = [a for a in (self.answers if TEACHER in self.keys else first) if a.category not in NOTHING]
        return len({answer.category == "correct" for answer in said}) > 1

    @property
    def keys(self) -> set[str]:
        return {answer.key for answer in self.answers}

    def of(self, key: str) -> list[Answer]:
        return [answer for answer in self.answers if answer.key == key]


def test_rows(page: Page) -> list[Row]:
    """Each test question with what each method wrote for it, in the order of `predictions`."""
    found: dict[tuple[str, str], list[Answer]] = {}
    for key, (generations, scores) in page.predictions.items():
        by_id = {(s.question_id, s.index): s for s in scores}
        for g in generations:
            score = by_id.get((g.question_id, g.index))
            category = score.category if score else "not_scored"
            mistakes = page.mistakes.get(key, {}).get((g.question_id, g.index), ())
            found.setdefault((key, g.question_id), []).append(Answer(key, category, g, score, "", mistakes))
    return [
        Row(q, [a for key in page.predictions for a in found.get((key, q.id), [Answer(key, "not_asked")])])
        for q in page.questions
    ]


def training_rows(page: Page) -> list[Row]:
    """Each training question with the teacher's rationales, and what became of them."""
    mistakes = page.mistakes.get(TEACHER, {})
    return [
        Row(
            question,
            [
                Answer(TEACHER, s.category, g, s, fate, mistakes.get((g.question_id, place), ()))
                for place, (g, s, fate) in enumerate(rationales)
            ],
        )
        for question, rationales in page.rationales
    ]


def span_of(page: Page, question: Question, answer: Answer) -> tuple[bool, Span] | None:
    """Where the answer was read from, if that can be told."""
    method = page.teacher_method if answer.fate else page.methods.get(answer.key)
    if not (answer.generation and answer.score and answer.score.predicted and method and page.reader):
        return None
    return answer_span(answer.generation, answer.score.predicted, question, method, page.reader, page.answer_type)


def marked(text: str, span: Span | None) -> Markup:
    """A text as markup: what hides spelled out, shortened where it is very long, the span marked if it is shown."""
    first, note, last = shortened(text)
    parts = [(first, 0), (last, len(text) - len(last))] if note else [(first, 0)]
    drawn = []
    for part, offset in parts:
        start, end = (span[0] - offset, span[1] - offset) if span else (-1, -1)
        if 0 <= start < end <= len(part):
            before, inside, after = (escape(visible(p)) for p in (part[:start], part[start:end], part[end:]))
            drawn.append(Markup("{}<mark>{}</mark>{}").format(before, inside, after))
        else:
            drawn.append(escape(visible(part)))
    return Markup(f"<i class=cut>[{escape(note)}]</i>").join(drawn)  # noqa: S704 - the note is ours


def fit(rows: Sequence[Row], draw: Callable[[Row], str], room: int) -> list[tuple[int, str]]:
    """Rows drawn, with their places, up to `room` bytes: divided ones first, then at random by SEED.

    The order in which they were taken: `within` takes fewer of them.
    """
    order = list(range(len(rows)))
    Random(SEED).shuffle(order)
    order.sort(key=lambda i: not rows[i].divided)
    drawn, size = [], 0
    for place in order:
        html = draw(rows[place])
        size += (length := len(html.encode()))
        if size > room:
            size -= length
            if length < room // 20:  # no long one, for which there may be others: it is full
                break
            continue
        drawn.append((place, html))
    return drawn


def within(drawn: Sequence[tuple[int, str]], room: int) -> Iterator[tuple[int, str]]:
    """The first of `drawn` that take up to `room` bytes."""
    for place, html in drawn:
        room -= len(html.encode())
        if room < 0:
            return
        yield place, html
