"""What a careful person takes from one sentence as its answer: one function a type.

    >>> read_number("so they have 74 - 35 = 39 pieces left.")
    '39'
    >>> read_number("8 or 9") is None
    True

For any doubt it is `None`. The rows of tests/test_answers.py say what each pattern is for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from cotdistill.reading import UNFINISHED, rare

LONGEST = 300  # characters of one answer
TOLERANCE = Fraction(1, 10**6)
NEGATED = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|than|without|before|after|instead of)|n't)\s+"
    r"(?:(?:be|the|a|an|option)\s+)*[\"'$(]*$",
    re.IGNORECASE,
)
HEDGED = rare(
    r"\b(?:don't know|not sure|unsure|maybe|perhaps|possibly|might|could be)\b",
    "know,sure,maybe,perhaps,possibly,might,could be",
)
MARK = re.compile(r"[\\*`${\u2212\u2018\u2019\u201c\u201d]")  # one of these is in whatever `plain` changes
DENIED = re.compile(r"\s(?:\w+\s)?(?:not|never|cannot|\w+n't)\b", re.IGNORECASE)


def doubtful(sentence: str) -> bool:
    """Whether a sentence asks, or says that it is not sure."""
    return sentence.rstrip(" \"'*$").endswith("?") or bool(HEDGED.search(plain(sentence)))


def plain(text: str) -> str:
    """`text` without the marks of LaTeX and Markdown that change no answer."""
    if MARK.search(text) is None:
        return text
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\,", "").replace("`", "")
    text = re.sub(r"\${2,}", " ", text)
    text = re.sub(r"[\u201c\u201d]", '"', re.sub(r"[\u2018\u2019]", "'", text))
    text = re.sub(r"\\(?:boxed|text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=[0-9])(?=\\[dt]?frac)", " ", text)
    text = re.sub(r"\\[dt]?frac\s?\{(-?[0-9]+)\}\s?\{([0-9]+)\}", r"\1/\2", text)
    text = text.replace("\\times", "\u00d7").replace("\\cdot", "\u00d7").replace("\\div", "\u00f7")
    text = re.sub(r"\\[()\[\];! ]|\\(?=[$%])", " ", text)
    # Bold and italics: stars that touch a word on one side only. "9**9" stays as it is.
    return re.sub(r"(?:^|(?<=[\s(:\"]))\*+(?=\S)|(?<=[^\s*])\*+(?=[\s.,;:!?)\"]|$)", "", text)


# Numbers ----------------------------------------------------------------------------------------

ONES = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
)
TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
WORDS = {word: i for i, word in enumerate(ONES)} | {
    f"{tens}-{ONES[one]}" if one else tens: 10 * i + one for i, tens in enumerate(TENS, 2) for one in range(10)
}
NUMBER_WORD = rare(
    rf"(?<![\w-])(?:(?:{'|'.join(TENS)})(?:[- ](?:{'|'.join(ONES[1:10])}))?|{'|'.join(ONES)})(?![\w-])",
    "zero,one,tw,thr,thi,fo,fi,six,seven,eigh,nin,ten,eleven",
)
# Words that make a number another one than it seems.
SCALED = rare(
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|one of|double|twice|half|halves|thirds?|quarters?"
    r"|squared|cubed)\b",
    "hundred,thousand,illion,dozen,one of,double,twice,half,halves,third,quarter,squared,cubed",
)
NUMERAL = re.compile(
    r"(?P<sign>[-+]?)[$\u20ac\u00a3\u00a5]?(?P<sign2>-?)"
    r"(?P<value>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,50})(?:\.[0-9]{1,50})?|\.[0-9]{1,50}"
    r"|(?:[0-9]{1,20}_)?[0-9]{1,20}/0*[1-9][0-9]{0,19})"
    r"(?:[%$\u20ac\u00a3\u00b0]|-?(?!(?:st|nd|rd|th|am|pm)\b)[A-Za-z]{2,}(?:-[A-Za-z]+)*)?"
)
LIMITED = rare(
    r"(?:\b(?:not|never|between|at least|at most|up to|(?:less|more|fewer|greater|smaller|larger) than)|n't"
    r"|[<>\u2264\u2265\u2260])\s*(?:\w+\s)?$",
    "not,never,between,at least,at most,up to,than,n't,<,>",
)
NUMBER = re.compile(r"([-+]?)(?:([0-9]{1,50}) )?([0-9.]{1,101}(?:/[0-9]{1,50})?)")
WHOLE = re.compile(r"-?[0-9]{1,50}")
TO_DO = re.compile(r"\b(?:add|subtract|multiply|divide)\b", re.IGNORECASE)
OPERATOR = re.compile(r"(?:^|\s)[-+*/\u00d7\u00f7^x\u2013](?=\s|$)")
# What may stand between two spellings of one number: "x = 8, so 8 apples"; not "5 feet 5 inches".
SAME = re.compile(r"[=:;]|\b(?:or|so|is|are|has|have|makes?|leaves?)\b", re.IGNORECASE)


AN_OPTION = re.compile(r"^\W*[A-J][.):]\s+(?=\S)")
MINUS = re.compile(r"\b(?:negative|minus)\s+(?=[$0-9])")
MIXED = re.compile(r"(?<![\w/.,])([0-9]+)\s+(?=[0-9]+/[0-9])")
BREAK = re.compile(r"\.{2,}|(?<=[A-Za-z]):|(?<=:)(?=-?[A-Za-z])|\u2014")
REASON = re.compile(r"\b(?:because|since)\b")
DIGIT = re.compile(r"[0-9]")
ASIDE = re.compile(r"(?<=[\w.%])\s+\((?!or\b)[^()]*\)")
POWER = re.compile(r"[\u00b2\u00b3\u221a\u03c0\u00bd\u00bc\u00be\\^]")
BLOB = re.compile(r"\S*[0-9]\S*")


def read_number(sentence: str, choices: Sequence[str] = ()) -> str | None:
    """The one number that a sentence gives, such as "39" of "74 - 35 = 39 pieces", commas deleted."""
    text = AN_OPTION.sub("", plain(sentence))  # the label of an option
    text = MINUS.sub("-", text)
    text = MIXED.sub(r"\1_", text)  # 2 1/2
    text = BREAK.sub(" : ", text)
    first = REASON.split(text, maxsplit=1)[0]
    text = first if DIGIT.search(first) else text
    if doubtful(sentence):
        return None
    if "=" in text:
        text = _right_side(text) or ""
    elif TO_DO.search(text):
        return None
    without = ASIDE.sub("", text)  # an aside
    return _sole_number(without if DIGIT.search(without) or NUMBER_WORD.search(without) else text)


def _right_side(text: str) -> str | None:
    """What follows the last "=", or `None` where that is not what the sentence arrives at."""
    left, _, right = text.rpartition("=")
    clause = re.split(r"[,;]\s|\b(?:and|so|then|that|means)\b", left.rpartition("=")[2] or left)[-1]
    operands = re.split(r"\s[-+*/\u00d7\u00f7]\s|[+*\u00d7\u00f7^]", clause)
    unknown = len(operands) > 1 and not all(DIGIT.search(operand) for operand in operands)
    if alone := re.fullmatch(r"[\s$(]*([0-9][0-9,.]*)\s*", clause):  # "8 = 9"
        unknown = not number_equal(alone[1], (re.findall(r"[0-9][0-9,.]*", right) or [""])[0].rstrip(".,"))
    if unknown or re.search(r"[0-9]\s?\*?[a-z]\b(?<!\sx)|\b(?<![\u2019'])[b-wyz]\b\s*[-+*/]", clause):
        return None
    # Of two equations the second must use what the first gives, or give the same.
    for earlier in re.split(r"[,;]\s|\b(?:and|so|then)\b", left)[:-1]:
        if "=" in earlier:
            result = re.findall(r"[0-9][0-9,.]*", earlier.rpartition("=")[2])
            used = re.findall(r"[0-9][0-9,.]*", f"{clause} = {right}")
            if not result or result[0].rstrip(".,") not in [number.rstrip(".,") for number in used]:
                return None
    return right


def _sole_number(text: str) -> str | None:
    if OPERATOR.search(text) or POWER.search(text):
        return None
    found: list[tuple[str, int, int]] = []
    for blob in BLOB.finditer(text):
        core = blob[0].strip("\"'()[]{}:;,!?#~\u2248").rstrip(".").rstrip("\"')]}")
        match = NUMERAL.fullmatch(core.removesuffix("'s"))
        if match is None or (match["sign"] and match["sign2"]):
            return None
        sign = "-" if "-" in match["sign"] + match["sign2"] else ""
        found.append((sign + match["value"].replace(",", "").replace("_", " "), blob.start(), blob.end()))
    for word in NUMBER_WORD.finditer(text):
        name = re.sub(r"\s", "-", word[0].lower())
        if name == "one" and (text[: word.start()].strip(" \"':") or re.match(r" of\b", text[word.end() :])):
            continue  # "the other one"
        sign = "-" if re.search(r"\b(?:negative|minus)\s+$", text[: word.start()], re.IGNORECASE) else ""
        found.append((f"{sign}{WORDS[name]}", word.start(), word.end()))
    found.sort(key=lambda number: number[1])
    if not found or SCALED.search(text) or LIMITED.search(text[: found[0][1]]):
        return None
    for (a, _, end), (b, start, _) in pairwise(found):
        if not number_equal(a, b) or not SAME.search(text[end:start]) or re.search(r"\band\b", text[end:start]):
            return None
    return found[0][0]


def number_equal(a: str, b: str) -> bool:
    """Equal within 1e-6, whatever the spelling: 8, 8.0, 1,000 and 1000, 2 1/2 and 2.5."""
    if WHOLE.fullmatch(a) and WHOLE.fullmatch(b):  # most are, and need no fractions
        return int(a) == int(b)
    try:
        return abs(_value(a) - _value(b)) <= TOLERANCE
    except (ValueError, ZeroDivisionError):
        return False


def _value(text: str) -> Fraction:
    # Fraction knows exponents too, and 1e999999 would be a number of a million digits.
    match = NUMBER.fullmatch(text.strip()[:LONGEST].replace(",", ""))
    if match is None:
        raise ValueError("not a number")
    value = Fraction(match[2] or 0) + Fraction(match[3])
    return -value if match[1] == "-" else value


# Options ----------------------------------------------------------------------------------------

LABEL = re.compile(r"(?<![\w'])(?:[(\[]\s?([A-Za-z])\s?[)\]]|([A-Z])\))")
LEADING = re.compile(r"[\s:\"'*$]*([A-Z])(?=[\"'*$]*(?:[.:)]|\s?$))|\W*([a-z])\W*$")
LONE = re.compile(
    r"(?:^\W*|\b(?i:is|be|answer|option|choice|so|therefore|thus|hence|has|pick|choose|select|say|think|or|and|but)\b"
    r"[\s:,\"'*$]*|[:,=]\s?)([A-Z])"
    r"(?=[\"'*$]*(?:\s?$|[.,;:!?)\]]|\s(?:or|and|nor|because|since)\b"
    r"|\sis (?:the )?(?:right|correct|true|best|answer)))"
)
NOT_LETTER = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot be|(?i:all|everything|nothing) but|except|than|instead of|eliminate)"
    r"|n't)(?: be)?(?: option| choice)?\s[(\"']*[A-Z][)\"']*(?!\w)(?:\snor\s[(\"']*[A-Z][)\"']*(?!\w))?"
    r"|(?<!\w)[(\"']*[A-Z][)\"']*\s(?:is not|isn't|is wrong|is incorrect|is false|cannot|can't)\b"
)


def read_choice(sentence: str, choices: Sequence[str] = ()) -> str | None:
    """The letter of the one option that a sentence names, by its letter or by its text."""
    text = NOT_LETTER.sub(" ", re.sub(r"[${}]|\\boxed", " ", plain(sentence)))
    named = _named(text, choices)
    letters = {(m[1] or m[2]).upper() for m in LABEL.finditer(text)}
    if leading := LEADING.match(text):
        letters.add((leading[1] or leading[2]).upper())
    letters = letters or {m[1] for m in LONE.finditer(text)}
    if doubtful(sentence):
        return None
    if not letters:
        return named.pop() if len(named) == 1 else None
    letter = letters.pop()
    if letters or ord(letter) - ord("A") >= (len(choices) or 26):
        return None
    return letter if letter in named or not named else None  # "A: Sam", where Sam is B


def _named(text: str, choices: Sequence[str]) -> set[str]:
    """Letters of the options whose text is there; of two in one place, the longer."""
    folded = " ".join(text.split()).casefold()
    spans = []
    for i, choice in enumerate(choices):
        words = re.escape(" ".join(choice.split()).casefold().strip(" .")[:LONGEST])
        if len(words) == 1 and words.isalpha():  # the letter of another, where letters are options
            continue
        match = re.search(rf"(?<![\w.,/-]){words}(?![\w{UNFINISHED}]|[.,/:-]\d)", folded) if words else None
        if match and not NEGATED.search(folded[: match.start()]) and not DENIED.match(folded, match.end()):
            spans.append((match.start(), match.end(), chr(ord("A") + i)))
    if not spans and (day := read_date(text)):
        return {chr(ord("A") + i) for i, choice in enumerate(choices) if read_date(choice) == day}
    return {
        letter
        for start, end, letter in spans
        if not any(a <= start and end <= b and b - a > end - start for a, b, _ in spans)
    }


# Yes or no, dates, text -------------------------------------------------------------------------

YES = r"yes(?![\w\u2026-])"
NO = r"no(?=[\"'*)\]]|\s?[.,;:!?]|\s[-\u2013\u2014]|\s(?:because|since|it|they|he|she|this|the)\b|\s?$)"
YES_NO = re.compile(rf"(?<![\w-])(?:{YES}|{NO})", re.IGNORECASE)
AT_THE_HEAD = re.compile(
    r"\W*(?:(?:so|therefore|thus|well|(?:most )?likely|probably|technically),?\W+)?(?:yes|no)\b", re.IGNORECASE
)
BOTH = re.compile(
    r"\b(?:yes|no)[\"']?(?:\s?(?:/|,? or |,? and |,? nor )[\"']?(?:yes|no)|,? (?:if|unless|when|only))\b", re.IGNORECASE
)
NOT_YES = re.compile(r"(?:\b(?:not|never|cannot|than)|n't)\s(?:\w+\s)?[\"']?(?:yes|no)\b", re.IGNORECASE)
UNSURE = rare(
    r"\b(?:not sure|unsure|maybe|perhaps|might|depends|unclear|unknown|cannot|can't|impossible|whether|if|either"
    r"|there (?:is|are|was|were) no)\b",
    "sure,maybe,perhaps,might,depends,unclear,unknown,cannot,can't,impossible,whether,if,either,there ",
)


def read_yes_no(sentence: str, choices: Sequence[str] = ()) -> str | None:
    """The yes or no that a sentence gives; the "no" of "no evidence" is none."""
    text = plain(sentence)
    if text.rstrip(" \"'*").endswith("?") or BOTH.search(text) or (UNSURE.search(text) and not AT_THE_HEAD.match(text)):
        return None
    words = {word.lower() for word in YES_NO.findall(NOT_YES.sub(" ", text))}
    return words.pop() if len(words) == 1 else None


MONTHS = re.findall("...", "janfebmaraprmayjunjulaugsepoctnovdec")
MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
DAY, YEAR, OVER = r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?", r"(?P<year>[0-9]{4})", r"(?![0-9\u2026]|[/-][0-9])"
DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![0-9/.-])(?P<first>[0-9]{{1,2}})(?P<by>[/-])(?P<second>[0-9]{{1,2}})(?P=by){YEAR}{OVER}",
        rf"(?<![0-9/.-]){YEAR}(?P<by>[/-])(?P<month>[0-9]{{1,2}})(?P=by)(?P<day>[0-9]{{1,2}}){OVER}",
        rf"\b{MONTH}\s{DAY},?\s{YEAR}{OVER}",
        rf"(?<![0-9]){DAY}\s(?:of\s)?{MONTH},?\s{YEAR}{OVER}",
    )
]


def read_date(sentence: str, choices: Sequence[str] = ()) -> str | None:
    """The one date of a sentence as YYYY-MM-DD; 05/06/2021 is May 6, as in the US."""
    text = plain(sentence)
    if doubtful(text):
        return None
    found = set()
    for match in (match for pattern in DATES for match in pattern.finditer(text)):
        if NEGATED.search(text[max(0, match.start() - 40) : match.start()]) or DENIED.match(text, match.end()):
            return None
        part: dict[str, str] = match.groupdict()
        if "first" in part:
            month, day = part["first"], part["second"]
            month, day = (day, month) if int(month) > 12 else (month, day)  # 31/12/2021 can be read in one way only
        else:
            month, day = part["month"], part["day"]
        number = int(month) if month.isdigit() else MONTHS.index(month[:3].lower()) + 1
        try:
            found.add(date(int(part["year"]), number, int(day)).isoformat())
        except ValueError:
            return None
    return found.pop() if len(found) == 1 else None


def read_text(sentence: str, choices: Sequence[str] = ()) -> str | None:
    """What a sentence says, or the one thing that it puts in double quotes; without its final stop."""
    text = re.sub(r"^[\s:]*(?:is\b)?[\s:]*", "", plain(sentence)).strip()
    quoted = re.findall(r'"([^"]+)"', re.split(r"=|\bequals\b", text)[-1] if text.count('"') > 2 else text)
    if len(quoted) > 1:
        return None
    text = quoted[0] if quoted else text
    text = re.sub(r"\sis the (?:\w+ )?answer\W*$", "", text).strip(" \t\"'.,!$").strip()
    return text if text and len(text) <= LONGEST and not text.endswith(UNFINISHED) else None


def date_equal(a: str, b: str) -> bool:
    """The same day, however it is written."""
    return _day(a[:LONGEST]) == _day(b[:LONGEST]) is not None


@lru_cache(maxsize=1000)  # a known answer is compared with those of D samples
def _day(text: str) -> str | None:
    return read_date(text)


def folded_equal(a: str, b: str) -> bool:
    """Equal but for case, outer white space and runs of spaces."""
    return " ".join(a.split()).casefold() == " ".join(b.split()).casefold()


def text_equal(a: str, b: str) -> bool:
    """As `folded_equal`; also "n s t y" or "n-s-t-y" for the one word nsty."""
    letters = re.split(r"[\s,-]+", a.strip())
    if len(letters) > 1 and len(b.split()) == 1 and all(len(letter) == 1 for letter in letters):
        a = "".join(letters)
    return folded_equal(a, b)
