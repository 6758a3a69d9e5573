"""What a careful reviewer would ask of a result: each a sentence, and none where there is nothing to ask.

    for warning in result_warnings(counts): ...

A warning says what was found, the numbers, and what to do or how to read it. docs/statistics.md has the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cotdistill.filters import leaked
from cotdistill.records import Category, Question
from cotdistill.tasks import fold

if TYPE_CHECKING:
    from cotdistill.results.compare import Summary

MANY = 0.05  # of errors, cut texts, lucky guesses
FEW_OPTIONS = 3
NUMBER = re.compile(r"\d[\d.,:/]*")
WORD = re.compile(r"\w[\w'-]*")


def result_warnings(counts: Mapping[Category, int]) -> list[str]:
    """Of one result, by the counts of its categories."""
    total, errors, right, cut = sum(counts.values()), counts["error"], counts["correct"], counts["truncated"]
    n = total - errors
    warnings = []
    if n and right in (0, n):
        warnings.append(f"{right} of {n} are right: check the answer type and a few predictions before you believe it.")
    if errors > MANY * total:
        warnings.append(f"{errors} of {total} generations are errors: the accuracy is over the other {n} only.")
    if cut > MANY * n:
        warnings.append(f"{cut} of {n} were cut before they had an answer: raise the limit, as evaluate.max_tokens.")
    if total and not n:
        warnings.append("nothing was answered: there is no accuracy.")
    return warnings


def best_on_test(found: Sequence[float], best: int, dev_epoch: int) -> str:
    """Of a student whose epoch was chosen on the test set, by the accuracies `found` after each."""
    return (
        f"epoch {best + 1} of {len(found)}, the best on the test set, as in the paper: {found[best]:.1%}; "
        f"the epoch of the lowest dev loss ({dev_epoch}) has {found[dev_epoch - 1]:.1%}."
    )


def not_above_baseline(found: Sequence[Summary], random: float, majority: float) -> list[str]:
    """Methods whose interval is not above guessing, or above the best constant answer; both in percent."""
    name, baseline = max(("guessing", random), ("the best constant answer", majority), key=lambda pair: pair[1])
    below = [f"{s.label} ({s.low:.1%} to {s.high:.1%})" for s in found if s.n and s.low <= baseline / 100]
    if not below:
        return []
    return [f"not shown to be better than {name}, which has {baseline:.1f}% right: {', '.join(below)}."]


def seen_in_training(taught: Sequence[Question], test: Sequence[Question]) -> list[str]:
    """Test questions that are training questions: the same, or but for numbers and names."""
    same = leaked(test, taught)
    templates = {template(question.text) for question in taught}
    like = sum(question.id not in same and template(question.text) in templates for question in test)
    warnings = []
    if same:
        warnings.append(f"{len(same)} of {len(test)} test questions were training questions: set curate.leaked=drop.")
    if like:
        warnings.append(
            f"{like} of {len(test)} test questions are training questions but for their numbers and names: "
            "the accuracy may not hold for questions of other templates."
        )
    return warnings


def template(text: str) -> str:
    """A text without its numbers in digits and its capitalised words, wherever they stand; white space folded."""
    words = WORD.sub(lambda word: "X" if word[0][0].isupper() else word[0], fold(text))
    return NUMBER.sub("0", re.sub("X( X)+", "X", words))


def teacher_warnings(ledger: Mapping[str, Any], options: float, keep: str) -> list[str]:
    """Of the rationales that were curated; `options` is how many answers a question has to choose from, 0: any."""
    if not ledger:
        return []
    warnings = []
    failed, dropped, kept = ledger["failed"], ledger["dropped"], ledger["kept"]
    if failed > MANY * ledger["asked"]:
        warnings.append(f"teacher: {failed} of {ledger['asked']} generations are errors: run again to ask for them.")
    if (cut := dropped["truncated"]) > MANY * ledger["answered"]:
        warnings.append(
            f"teacher: {cut} of {ledger['answered']} rationales were cut and dropped: raise teacher.max_tokens."
        )
    lucky = lucky_share(ledger["right"], dropped["wrong"], options) if keep == "correct" else 0.0
    if lucky > MANY:
        warnings.append(
            f"teacher: about {lucky * kept:.0f} of {kept} kept rationales may be right by luck: a question has "
            f"{options:.2g} options, and of a teacher that knows or guesses so many guesses pass the filter."
        )
    return warnings


def lucky_share(right: int, wrong: int, options: float) -> float:
    """The share of right answers that are guesses, of one who knows or draws one of a few options; 0 for more.

    With m options a wrong answer stands for 1 / (m - 1) right guesses (correction for guessing: Lord & Novick 1968,
    Statistical Theories of Mental Test Scores, chapter 14).
    """
    if not right or not 1 < options <= FEW_OPTIONS:
        return 0.0
    return min(1.0, wrong / (options - 1) / right)
