"""Where in a text its answer was read from, so that a person sees it at once.

    >>> locate(" 5 + 3 = 8 apples.", "8", "number", lambda text: read_it(text))
    (9, 10)

Nothing is guessed: a place counts only if the answer is read no more without it, or still with it alone. Where
neither holds there is no place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from cotdistill.answers import AnswerType
from cotdistill.evaluate import split_answer
from cotdistill.methods import Method
from cotdistill.readers import DATES, NUMBER_WORD, number_equal, read_date, read_number
from cotdistill.records import Generation, Question

MOST = 20_000  # characters that are looked at: a longer text has no place
PLACES = 12  # of the same answer in one text that are tried
BLANK = "\u25af"  # no part of any answer
NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")

Span = tuple[int, int]


def answer_span(
    generation: Generation, predicted: str, question: Question, method: Method, answer_type: AnswerType, kind: str
) -> tuple[bool, Span] | None:
    """Where `predicted` stands in a generation: whether in its `answer_text` (else `text`), and from where to where."""
    rationale, answer = split_answer(generation, method, answer_type)
    text = generation.text if answer is None else answer
    ends_it = generation.answer_text is None and (answer is None or generation.text.endswith(answer))
    mark = answer_type.unfinished if ends_it and generation.finish_reason == "length" else ""

    def read(part: str) -> str | None:
        if answer is None:
            return answer_type.find(f"{part}{mark}", question.choices)
        return next(iter(answer_type.candidates(f"{part}{mark}", question.choices)), None)

    if (found := locate(text, predicted, kind, read, question.choices, last=answer is None)) is None:
        return None
    if answer is None or method.answer_cue or method.mark or not method.cue:
        before = 0
    else:
        before = len(rationale) + len(method.cue)
    in_answer = answer is not None and method.answer_cue is not None
    return in_answer, (found[0] + before, found[1] + before)


def locate(
    text: str,
    predicted: str,
    kind: str,
    read: Callable[[str], str | None],
    choices: Sequence[str] = (),
    last: bool = False,
) -> Span | None:
    """The place of the answer that `read` takes from a text; `kind` is an answer type.

    Of several that would each do, the first; or the `last`, for a text that comes to its answer at its end.
    """
    if len(text) > MOST:
        return None
    start = len(text) - len(text.lstrip())
    if text.strip() == predicted:
        return start, start + len(predicted)
    if kind == "math":  # each reading takes a process
        places = [*_literal(text, predicted)]
        return places[0] if len(places) == 1 else None
    places = sorted(set(_places(text, predicted, kind, choices)), reverse=last)[:PLACES]
    for place in places:
        if read(_without(text, [place])) != predicted:
            return place
    for place in places:
        if read(_without(text, [other for other in places if other != place])) == predicted:
            return place
    return None


def _without(text: str, places: Sequence[Span]) -> str:
    for start, end in sorted(places, reverse=True):
        text = text[:start] + BLANK + text[end:]
    return text


def _places(text: str, predicted: str, kind: str, choices: Sequence[str]) -> Iterator[Span]:
    """Each place that says `predicted`."""
    if kind in ("number", "integer"):
        for match in NUMBER.finditer(text):
            for start in {match.start(), match.start() + match[0].startswith("-")}:
                if number_equal(text[start : match.end()], predicted):
                    yield start, match.end()
        for match in NUMBER_WORD.finditer(text):
            if read_number(match[0]) == predicted:
                yield match.span()
    elif kind == "choice":
        letter = re.escape(predicted)
        yield from (m.span() for m in re.finditer(rf"(?<!\w){letter}(?!\w)", text, re.IGNORECASE))
        number = ord(predicted) - ord("A") if len(predicted) == 1 else -1
        if 0 <= number < len(choices) and choices[number].strip():
            yield from (m.span() for m in re.finditer(re.escape(choices[number].strip(" .")), text, re.IGNORECASE))
    elif kind == "yes_no":
        yield from (m.span() for m in re.finditer(rf"(?<!\w){re.escape(predicted)}(?!\w)", text, re.IGNORECASE))
    elif kind == "date":
        for pattern in DATES:
            yield from (m.span() for m in pattern.finditer(text) if read_date(m[0]) == predicted)
        yield from _literal(text, predicted)
    else:
        yield from _literal(text, predicted)


def _literal(text: str, predicted: str) -> Iterator[Span]:
    return (m.span() for m in re.finditer(re.escape(predicted), text)) if predicted else iter(())
