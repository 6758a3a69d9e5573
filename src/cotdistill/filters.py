"""What curation asks of a rationale besides its answer: does it loop, is its question a test question.

>>> loops("So it is 5, and we are done here. " * 4)
True
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import eq

from cotdistill.records import Question
from cotdistill.tasks import fold

LOOP = 120  # characters: 24 words or so, three times eight
# Of LOOP characters at least two thirds stand a second time, and so does one of the pieces that begin every STEP.
STEP, PIECE = 56, 24
MOST = 3000  # characters that are looked at, the last of a text: a loop goes on to its end


def loops(text: str) -> bool:
    """Whether a text, its white space folded, says one thing three or more times in a row, over LOOP characters.

    What differs by a name or a number is another thing: the lines of Last Letter or Coin Flip do not loop.
    """
    text = text[-MOST:] + " "  # what stands between two phrases does not stand after the last
    for start in range(0, len(text) - LOOP + STEP, STEP):
        if text.find(text[start : start + PIECE], start + 1) >= 0:  # most texts have no piece twice
            return any(_says_again(text, shift) for shift in set(_shifts(text, start)))
    return False


def _shifts(text: str, first: int) -> Iterator[int]:
    """After how many characters a piece of the text, the first or a later one, stands a second time."""
    most = len(text) // 3
    for start in range(first, len(text) - LOOP + STEP, STEP):
        piece, end = text[start : start + PIECE], start + PIECE + most
        again = text.find(piece, start + 1, end)
        while again >= 0:
            yield again - start
            again = text.find(piece, again + 1, end)


def _says_again(text: str, shift: int) -> bool:
    alike = bytes(map(eq, text, text[shift:]))
    return b"\1" * (max(LOOP, 3 * shift) - shift) in alike


def leaked(questions: Sequence[Question], test: Sequence[Question]) -> set[str]:
    """The ids of questions that are test questions, but for case and white space."""
    texts = {_folded(question) for question in test}
    return {question.id for question in questions if texts and _folded(question) in texts}


def _folded(question: Question) -> str:
    return fold(question.text).casefold()


def overlap(questions: Sequence[Question], test: Sequence[Question]) -> list[int]:
    """How many questions share 8 words in a row (as PaLM counts), and 13 (as GPT-3), with a test question.

    Words are compared without case and punctuation.
    """
    tested = [_words(question) for question in test]
    four, eight, thirteen = ({gram for words in tested for gram in _grams(words, size)} for size in (4, 8, 13))
    shared = [0, 0]
    if not four:  # as where nothing is tested
        return shared
    for words in map(_words, questions):
        # Eight in a row hold four that begin at 0, 4, 8, ...: most questions share not even these.
        quarters = zip(words[::4], words[1::4], words[2::4], words[3::4], strict=False)
        if four.isdisjoint(map(hash, quarters)) or eight.isdisjoint(_grams(words, 8)):
            continue
        shared[0] += 1
        shared[1] += not thirteen.isdisjoint(_grams(words, 13))
    return shared


def _words(question: Question) -> list[str]:
    return re.findall(r"\w+", question.text.lower())


def _grams(words: Sequence[str], size: int) -> Iterator[int]:
    """Hashes of each run of `size` words, for a test set of any size to fit."""
    return map(hash, zip(*(words[i:] for i in range(size)), strict=False))
