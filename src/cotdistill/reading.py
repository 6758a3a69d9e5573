"""Where a careful person looks for the answer in a text: which sentence states it, or concludes it.

    >>> find(read_number, "She had 8. The answer is 5. I hope this helps!", ())
    '5'
    >>> find(read_number, "She had 8. She ate 3.", ()) is None
    True

A `Read` (readers.py) says what a sentence gives. A wrong answer accepted is worse than a right one
refused: whatever leaves a doubt is `None`. Each pattern meets at most MOST characters, so none can be slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MOST = 3000  # characters that are read: the first of an answer step, the last of a whole text
UNFINISHED = "\u2026"  # stands where a text was cut; what touches it may not be all there

Read = Callable[[str, Sequence[str]], str | None]


@dataclass(frozen=True)
class Rare:
    """A pattern that ignores case and is only tried where one of `words`, without which it never matches, stands."""

    pattern: re.Pattern[str]
    words: tuple[str, ...]

    def search(self, text: str) -> re.Match[str] | None:
        return self.pattern.search(text) if self._may(text) else None

    def finditer(self, text: str) -> Iterable[re.Match[str]]:
        return self.pattern.finditer(text) if self._may(text) else ()

    def _may(self, text: str) -> bool:
        if not text.isascii():  # some letters have cases of their own there
            return True
        lower = text.lower()
        for word in self.words:  # noqa: SIM110 - any() over a generator takes twice as long
            if word in lower:
                return True
        return False


def rare(pattern: str, words: str) -> Rare:
    """The Rare of a pattern, and of its words with commas between them."""
    return Rare(re.compile(pattern, re.IGNORECASE), tuple(words.split(",")))


# The model's end marks, and the next question that a model goes on to ask itself.
GOES_ON = re.compile(
    r"\sEND\b|<\|(?:im_end|endoftext|eot_id)\|>|</s>|\n[#* ]*(?:Q|Question|Problem|Human|User)\b[^\n:]{0,9}:"
)
# No end: after a title, a month or an initial. "A. 18 ducks" is one sentence too.
SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')*]))(?<!\b[A-Z]\.)(?<!\b(?:Mr|Dr|Ms|St|Jr)\.)(?<!\b(?:Mrs|Jan|Feb|Mar|Apr|Jun)\.)"
    r"(?<!\b(?:Jul|Aug|Sep|Oct|Nov|Dec)\.)(?<!\bSept\.)\s+|\n\s*"
)
EQUATION_GOES_ON = re.compile(r"=[ \t]*\n\s*")
STATED = rare(
    r"\banswer(?:\s?\([^()\n]{1,30}\))?(?:\s(?:to|for)\s[^.:\n]{1,80}?)?[*\"]*\s?"
    r"(?:(?:is|was|would be|will be|must be)\b|[:=])"
    r"|\bto answer the question,|\b(?:correct|right|best) (?:option|choice) (?:is|would be)\b|\#{4}",
    "answer,option,choice,####",
)
# Before or after "the answer is", where nothing is stated by it.
SUPPOSED = re.compile(
    r"\b(?:wrong|incorrect|other|another|previous|possible|an|if|whether|suppose|assume|unless|what|not|common)\s+"
    r"(?:(?:the|my|our|your)\s+)?(?:\w+\s+)?$"
    r"|(?:n't|not) (?:think|believe|say|true|the case) (?:that )?(?:the )?(?:\w+ )?$",
    re.IGNORECASE,
)
OF_ITSELF = re.compile(r"[\s:]*(?:correct|right|wrong|incorrect)\b", re.IGNORECASE)
RETRACTED = rare(
    r"(?:^|(?<=[.!?\n]))\W*(?:wait|hold on|actually|correction|oops|sorry|no,? (?:wait|actually)|i made a mistake"
    r"|let(?:'s| me| us) (?:re-?(?:check|vise|calculate|consider|count|do|examine|think)|correct|fix))\b",
    "wait,hold on,actually,correction,oops,sorry,mistake,let",
)
FILLER = re.compile(
    r"\W*(?:i hope|hope this|let me know|(?:we|you) can (?:use|write|verify|confirm|check|also)"
    r"|to (?:verify|confirm|check))\b|\W*$",
    re.IGNORECASE,
)
CONCLUDES = re.compile(
    r"\W*(?:so|therefore|thus|hence|in conclusion|in total|altogether|at the end"
    r"|(?:that|this|which)(?: also)? (?:means|leaves|gives|makes|would be|is)|(?:if|when) we (?:put|combine|join))\b"
    r"|\W*(?:yes|no)\b[,.]|(?:\S+\s+)?\S+$|.*\b(?:left|remaining|in total|altogether|now)\W*$|.*=.*\d"
    r"|.*\bis (?:correct|(?:the )?(?:correct |right |final )?(?:answer|option|choice))\b",
    re.IGNORECASE,
)
A_LIST = re.compile(r"\W*1[.)]\s[^\n]*\n\s*(?:\n\s*)?2[.)]\s")


def candidates(read: Read, equal: Callable[[str, str], bool], text: str, choices: Sequence[str] = ()) -> list[str]:
    """The answer of an answer step, if it has one: that of its first sentence, unless it is taken back."""
    text = _spoken(text).strip()
    text = _said(text[:MOST] + UNFINISHED * (len(text) > MOST))
    sentences = _sentences(text)
    if not sentences:
        return []
    first, rest = sentences[0], "\n".join(sentences[1:])
    read = _once(read)  # what is first is often last too
    answer = None
    if not (A_LIST.match(text) or RETRACTED.search(rest) or _supposed(first)):
        answer = read(_stated(first) or first, choices)
    if answer is None:
        answer = find(read, text, choices)
        return [] if answer is None else [answer]
    reasons = len(first.split()) > 3  # and is no answer by itself, such as "39 pieces left."
    stated = _stated(rest)
    if stated is None and [len(sentence.split()) for sentence in sentences[:2]] == [1, 1]:
        stated = sentences[1]  # "8.\n9."
    other = read(stated, choices) if stated is not None else find(read, text, choices) if reasons else None
    if other is None or equal(answer, other):
        return [answer]
    return [other] if reasons and stated is not None else []


def find(read: Read, text: str, choices: Sequence[str] = ()) -> str | None:
    """The answer of a whole text: what it states last as its answer, else what its last sentence concludes."""
    text = _said(_spoken(text).rstrip()[-MOST:])
    taken_back = [match.end() for match in RETRACTED.finditer(text)]
    text = text[taken_back[-1] :] if taken_back else text
    if (stated := _stated(text)) is not None:
        return read(stated, choices)
    sentences = _sentences(text)
    while sentences and FILLER.match(sentences[-1]):
        sentences.pop()
    if not sentences or sentences[-1].endswith(UNFINISHED) or _supposed(sentences[-1]):
        return None
    if len(sentences) > 1 and not CONCLUDES.match(sentences[-1]):
        return None
    return read(sentences[-1], choices)


def is_step(text: str) -> bool:
    """Whether a text is an answer only, such as " 39." or " Yes, it is.", and no reasoning."""
    sentences = [s for s in _sentences(_said(_spoken(text).strip()[:MOST])) if not FILLER.match(s)]
    return len(sentences) < 2 or len(sentences[0].split()) == 1


def _once(read: Read) -> Read:
    """`read`, which looks at no sentence twice; for one question's choices."""
    known: dict[str, str | None] = {}

    def look(sentence: str, choices: Sequence[str]) -> str | None:
        if sentence not in known:
            known[sentence] = read(sentence, choices)
        return known[sentence]

    return look


def _spoken(text: str) -> str:
    """What is behind the thoughts; an answer between tags as one behind "####"."""
    text = text.rpartition("</think>")[2]
    return text.replace("<answer>", "\n#### ").replace("</answer>", "\n") if "<answer>" in text else text


def _said(text: str) -> str:
    return GOES_ON.split(text, maxsplit=1)[0].strip()


def _sentences(text: str) -> list[str]:
    text = EQUATION_GOES_ON.sub("= ", text) if "=" in text else text
    return [part for part in SENTENCE_END.split(text) if part.strip(" \t:.,*$")]


def _stated(text: str) -> str | None:
    """The sentence after the last "the answer is", or what is in the last \\boxed{}; `None` without either."""
    at, stated = -1, None
    for match in STATED.finditer(text):
        supposed = SUPPOSED.search(text[max(0, match.start() - 60) : match.start()])
        if not supposed and not OF_ITSELF.match(text, match.end()):
            at = match.end()
    if at >= 0:
        stated = next(iter(_sentences(text[at:].lstrip("*"))), "")
    boxed = text.rfind("\\boxed{")
    if boxed < at:
        return stated
    depth = 0
    for i in range(boxed + len("\\boxed"), len(text) if boxed >= 0 else 0):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[boxed + len("\\boxed{") : i]
    return stated


def _supposed(sentence: str) -> bool:
    return any(SUPPOSED.search(sentence[: match.start()]) for match in STATED.finditer(sentence))
