"""The study of errors: what is wrong with a rationale, by rules that score and never filter.

>>> question = Question("1", "Jo has 3 figs and buys 4. How many?", "7")
>>> mistakes(question, "She has 3 + 4 = 8 figs.", Score("1", 0, "8", "wrong", False), "number")
(Mistake(kind='calculation', evidence='3 + 4 = 8'),)

The rules read equations, numbers and dates, and nothing else: where a task has none (Coin Flip, Last Letter, yes or
no) they say no more than `repetition`, `truncated`, `form` and `other`. A text without a finding is not a right one.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, NamedTuple

from cotdistill.answers import TYPED, AnswerType
from cotdistill.equations import NUMBER, Number, calculations, number, value
from cotdistill.evaluate import split_answer
from cotdistill.filters import loops
from cotdistill.methods import Method
from cotdistill.readers import DATES, NUMBER_WORD, WORDS, read_date
from cotdistill.reading import SENTENCE_END
from cotdistill.records import Generation, Question, Score

Kind = Literal["calculation", "false_step", "repetition", "truncated", "form", "misread", "other"]
KINDS: tuple[Kind, ...] = ("calculation", "false_step", "repetition", "truncated", "form", "misread", "other")

MEANINGS: dict[Kind, str] = {
    "calculation": "an equation in it is false",
    "false_step": "the answer is right, and a step is false or the text concludes another answer",
    "repetition": "it says one thing over and over",
    "truncated": "it was cut at its limit",
    "form": "no answer can be read from it",
    "misread": "it computes with numbers that are not in the question",
    "other": "the answer is wrong, and none of these holds",
}

MOST = 10_000  # characters of a rationale that are read, the first
MOST_FOUND = 5  # of one kind in a text
MOST_SHOWN = 200  # characters of evidence
MOST_NUMBERS = 60  # that a rationale may work with: of more, each is made of two others

HUNDREDTH = Fraction(1, 100)
SINGLE = re.compile(
    r"\s{0,3}[-(]{0,3}\$?[0-9][0-9,]{0,50}(?:\.([0-9]{1,50}))?%?\){0,3}(?:\s?[A-Za-z]{1,20})?\s{0,3}\.?"
)
DATE = re.compile(r"[0-9]{1,2}[/-][0-9]{1,2}[/-][0-9]{2,4}")
VARIABLE = re.compile(r"(?<![A-Za-z])[A-Za-wyz](?![A-Za-z])|[0-9]x\s?[\n=]")
RELATIVE = re.compile(r"[-+]\s?[0-9][0-9.,]*%")
# What stands before an equation that is a part of a longer one: an operator in words, a mixed number, a clock time.
PART_OF_MORE = re.compile(
    r"(?:\b(?:plus|minus|times|multiplied by|divided by|twice|thrice|double|triple|root|root of|sqrt|not|[0-9] and)\s"
    r"|\b(?:half|thirds?|quarters?|fourths?|fifths?|percent)\s(?:of\s)?|%\s?(?:of\s)?"
    r"|[0-9]:|[0-9] |[)\]}{\[]|\\\w{1,20}\s?)\Z",
    re.IGNORECASE,
)
# What follows a result that is more than it seems, or is not meant.
OTHER_RESULT = re.compile(
    r"[\s,;(]{0,3}(?:and (?:a |[0-9])|remainder|r\.? ?[0-9]|with\b.{0,20}\b(?:left|remain)|hundred|thousand|million"
    r"|billion|dozen|mod\b|is (?:not|wrong|false|incorrect)|[?\\!])",
    re.IGNORECASE,
)
ROUNDED = re.compile(r"round|about|approx|roughly|nearly|almost|remain|left over|whole|full|estimate", re.IGNORECASE)
UNIT = re.compile(  # of which others are made
    r"\b(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|cents?|dimes?|nickels?|quarters?|penn(?:y|ies)|dozens?"
    r"|inch(?:es)?|feet|foot|yards?|miles?|mm|cm|km|k?m|meters?|grams?|k?g|pounds?|ounces?|liters?|gallons?|quarts?"
    r"|pints?|cups?|pairs?|hundred|thousand|million|am|pm|percent|dollars?)\b|[$%]",
    re.IGNORECASE,
)
# Numbers that anybody knows, of hours, days, years, money and measures.
KNOWN = frozenset((0, 1, 2, 3, 4, 7, 10, 12, 16, 24, 28, 29, 30, 31, 36, 52, 60, 100, 360, 365, 366, 1000))
# Numbers that a word gives.
SAID: dict[str, tuple[Fraction, ...]] = {
    word: tuple(map(Fraction, numbers.split()))
    for words, numbers in (
        ("half halves", "1/2 2"),
        ("third thirds", "1/3 3"),
        ("fourth fourths", "1/4 4"),
        ("fifth fifths", "1/5 5"),
        ("quarter quarters", "1/4 4 25"),
        ("twice double couple pair pairs second both", "2"),
        ("thrice triple", "3"),
        ("nickel nickels", "5 1/20"),
        ("sixth", "6"),
        ("seventh", "7"),
        ("eighth octagon", "8"),
        ("ninth", "9"),
        ("dime dimes tenth decade", "10 1/10"),
        ("dozen dozens", "12"),
        ("fortnight", "14"),
        ("century hundred", "100"),
        ("thousand", "1000"),
        ("million", "1000000"),
    )
    for word in words.split()
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One finding: its kind, and the words of the text that show it (empty where all of the text does)."""

    kind: Kind
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """How well a rule, or `any` of them, tells bad rationales from good ones, of `n` whose answer is right.

    `bad` of them are, by those who labelled them; the rule `fired` on so many, of which so many `hits` are bad.
    """

    rule: str
    labelled_by: str
    n: int
    bad: int
    fired: int
    hits: int

    @property
    def precision(self) -> float:
        return self.hits / self.fired

    @property
    def recall(self) -> float:
        return self.hits / self.bad


PEOPLE = "people, who read other outputs of this teacher"
A_MODEL = "the language model that wrote the rules"
MEASURED_ON = "Date Understanding, outputs of text-davinci-002 with a right answer"
# docs/errors.md says what these labels are worth.
MEASURED: tuple[Measured, ...] = (
    Measured("any", PEOPLE, n=137, bad=33, fired=9, hits=3),
    Measured("false_step", PEOPLE, n=137, bad=33, fired=5, hits=2),
    Measured("truncated", PEOPLE, n=137, bad=33, fired=4, hits=1),
    Measured("any", A_MODEL, n=249, bad=92, fired=21, hits=20),
    Measured("false_step", A_MODEL, n=249, bad=92, fired=15, hits=15),
    Measured("truncated", A_MODEL, n=249, bad=92, fired=6, hits=5),
)


def mistakes(question: Question, text: str, score: Score, answer_type: str, cut: bool = False) -> tuple[Mistake, ...]:
    """What the rules find in a rationale; nothing for an error, which nobody wrote.

    `text` is the rationale, or all that was written where the method has none; `answer_type` is the task's;
    `cut` says that the text was cut at its limit. In the order of KINDS.
    """
    if score.category == "error":
        return ()
    whole = len(text) <= MOST and not cut
    read = text if whole else text[:MOST].rpartition(" ")[0]  # 3 + 4 = 1 may go on as 12
    steps = list(_steps(read, question))
    false = [step.words[:MOST_SHOWN] for step in steps if _false(step, read)]
    found = [Mistake("calculation", words) for words in _few(false)]
    if score.correct:
        wrong = false or (_other_conclusion(question, read, answer_type) if whole else [])
        found += [Mistake("false_step", words) for words in _few(wrong)]
    if loops(" ".join(text[-MOST:].split())):
        found.append(Mistake("repetition"))
    if cut or score.category == "truncated":
        found.append(Mistake("truncated"))
    if score.category == "no_answer":
        found.append(Mistake("form"))
    if steps and _computes(question, answer_type):
        found += [Mistake("misread", words) for words in _few(_misread(question, read, steps))]
    return tuple(found) or ((Mistake("other"),) if score.category == "wrong" else ())


def mistakes_of(
    generation: Generation, question: Question, score: Score, method: Method, rule: AnswerType, answer_type: str
) -> tuple[Mistake, ...]:
    """What the rules find in a generation of `method`, scored by `rule`."""
    rationale, answer = split_answer(generation, method, rule)
    # Where one text holds both, what was cut after the answer is not missed.
    ended = generation.answer_text is None and answer is not None and score.predicted is not None
    cut = generation.finish_reason == "length" and not ended
    return mistakes(question, rationale if rationale.strip() else generation.text, score, answer_type, cut)


def count(found: Iterable[Sequence[Mistake]]) -> dict[str, int]:
    """In how many texts there is each kind."""
    counts = Counter(kind for mistakes in found for kind in {mistake.kind for mistake in mistakes})
    return {kind: counts[kind] for kind in KINDS}


def _few(steps: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(steps))[:MOST_FOUND]


# Calculations --------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """An equation, or a row of them, as it is written, and where."""

    start: int
    words: str

    @property
    def sides(self) -> list[str]:
        return self.words.split("=")


def _steps(text: str, question: Question) -> Iterator[_Step]:
    """The equations of a text that can be judged: whole, of numbers only, and not the question's own."""
    end = 0
    dated = bool(DATE.search(question.text))
    for words in calculations(text):
        start = text.index(words, end)
        end = start + len(words)
        if PART_OF_MORE.search(text[max(0, start - 30) : start]) or OTHER_RESULT.match(text[end : end + 40]):
            continue
        if VARIABLE.search(words) or DATE.search(words) or (dated and "/" in words) or words in question.text:
            continue
        if words.startswith("(") and words.endswith(")") and ")" not in words.split("=")[0]:
            start, words = start + 1, words[1:-1]
        yield _Step(start, words)


def _false(step: _Step, text: str) -> bool:
    """Whether two sides that stand beside each other are not equal, in any way to read them."""
    near = text[max(0, step.start - 40) : step.start + len(step.words) + 40]
    return any(_unequal(left, right, near) for left, right in pairwise(step.sides))


def _unequal(left: str, right: str, near: str) -> bool:
    units = {unit.lower().removesuffix("s") for unit in UNIT.findall(left + right)}
    if len(units) > 1 or (RELATIVE.search(left) and not re.search(r"[0-9]%", right)):
        return False  # 1 hour - 20 minutes = 40 minutes, 50 + 10% = 55
    for percent in (HUNDREDTH, 1) if "%" in units else (1,):
        a, b = value(left, percent), value(right, percent)
        if a is None or b is None or a == b or _rounded(a, right, percent, near) or _rounded(b, left, percent, near):
            return False
        first = NUMBER.search(right)
        if first and not SINGLE.fullmatch(right) and value(first[0]) == a:
            return False  # 5 + 3 = 8 + 2 = 10: what is found so far, taken on
    return True


def _rounded(exact: Number, side: str, percent: Number, near: str) -> bool:
    """Whether a side is one number that gives as many digits of `exact` as it has, rounded or cut."""
    single = SINGLE.fullmatch(side)
    stated = value(side, percent)
    if single is None or stated is None:
        return False
    last_digit = Fraction(percent if "%" in side else 1) / 10 ** len(single[1] or "")
    if (exact / last_digit).denominator == 1 or abs(exact - stated) >= last_digit:
        return False
    return bool(single[1]) or "%" in side or bool(ROUNDED.search(near))


def _other_conclusion(question: Question, text: str, answer_type: str) -> Iterator[str]:
    """The sentence in which a text concludes a number or a date, where the known answer stands nowhere in it."""
    answer = question.answer
    if answer_type == "choice":
        option = ord(answer.strip()[:1] or " ") - ord("A")
        answer = question.choices[option] if 0 <= option < len(question.choices) else ""
        answer_type = "date" if DATE.search(answer) else "number" if SINGLE.fullmatch(answer) else ""
    if answer_type not in ("number", "integer", "date"):
        return
    known: object = read_date(answer) if answer_type == "date" else value(answer)
    said = _dates(text) if answer_type == "date" else _given(text)
    reader = TYPED[answer_type]
    concluded = None if known is None or known in said else reader.find(text, ())
    if concluded is None or reader.equal(concluded, answer):
        return
    for sentence in reversed(SENTENCE_END.split(text)[-MOST_FOUND:]):
        if concluded in reader.candidates(sentence, ()):
            yield sentence.strip()[:MOST_SHOWN]
            return


def _dates(text: str) -> set[object]:
    return {read_date(match[0]) for pattern in DATES for match in pattern.finditer(text)}


# Numbers of the question ---------------------------------------------------------------------------


def _computes(question: Question, answer_type: str) -> bool:
    """Whether a question is answered from numbers that it gives, and from no dates, which have others in them."""
    if answer_type == "choice":
        return any(SINGLE.fullmatch(choice) for choice in question.choices) and not DATE.search(question.text)
    return answer_type in ("number", "integer", "math") and bool(_given(question.text))


def _given(text: str) -> set[Number]:
    """The numbers that a question gives, in figures or words."""
    given = set(map(number, NUMBER.findall(text)))
    given |= {WORDS[re.sub(r"\s", "-", match[0].lower())] for match in NUMBER_WORD.finditer(text)}
    given |= {said for word in re.findall(r"[a-z]+", text.lower()) for said in SAID.get(word, ())}
    given |= {int(figures) for figures in re.findall(r"([0-9]{1,9})(?:st|nd|rd|th)\b", text)}
    given |= {Fraction(int(a), int(b)) for a, b in re.findall(r"\b([0-9]{1,9})/([1-9][0-9]{0,8})\b", text)}
    return given


def _misread(question: Question, text: str, steps: Sequence[_Step]) -> Iterator[str]:
    """Equations with a number that neither the question gives nor the text has computed before."""
    known = _given(f"{question.text} {' '.join(question.choices)}")
    prose = deque((match.start(), number(match[0])) for match in NUMBER.finditer(text))
    for step in steps:
        if len(known) > MOST_NUMBERS:
            return
        while prose and prose[0][0] < step.start:
            if _explained(said := prose.popleft()[1], known):
                known.add(said)
        operands = _operands(step)
        if not all(_explained(operand, known) for operand in operands):
            yield step.words[:MOST_SHOWN]
        known |= {result for side in step.sides if (result := value(side)) is not None} | {*operands}


def _operands(step: _Step) -> list[Number]:
    """The numbers that an equation computes with: those of its sides, but for results."""
    sides = [side for i, side in enumerate(step.sides) if i == 0 or not SINGLE.fullmatch(side)]
    return [number(figures) for side in sides for figures in NUMBER.findall(side)]


def _explained(number: Number, known: Set[Number]) -> bool:
    """Whether a number is known, or one operation makes it of two that are."""
    if number in KNOWN or number in known:
        return True
    n = Fraction(number)
    return any(
        n - a in known
        or a - n in known
        or n + a in known
        or (a and (n / a in known or n * a in known))
        or a / n in known
        for a in (*known, 100)
    )
