"""Several samples of each question: the answer that they make, and how often they are right.

    answers = [vote(scores, answer_type.equal) for scores in by_question(scores)]
    at_k(by_question(scores), answer_type.equal)      # mean@8, maj@1, 2, 4, 8 and pass@1, 2, 4, 8

A sample without an answer has no vote. A question of which a sample failed is in none of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from cotdistill.records import AtK, Score
from cotdistill.stats import pass_at_k, share_interval

Equal = Callable[[str, str], bool]


def by_question(scores: Sequence[Score]) -> list[list[Score]]:
    """Scores that stand together by question, apart."""
    return [list(group) for _, group in groupby(scores, key=lambda score: score.question_id)]


def vote(scores: Sequence[Score], equal: Equal) -> Score:
    """The score that stands for a question's samples: the first with the most frequent answer, or of a failed one.

    Of equally frequent answers the one sampled first: samples are drawn alike, so that is a fair draw among
    them, and a right one gets in expectation its share of the credit.
    """
    alike: list[list[Score]] = []
    for score in scores:
        if score.category == "error":
            return score
        if score.predicted is None:
            continue
        for group in alike:
            if group[0].predicted == score.predicted or equal(group[0].predicted or "", score.predicted):
                group.append(score)
                break
        else:
            alike.append([score])
    return max(alike, key=len)[0] if alike else scores[0]


def at_k(questions: Sequence[Sequence[Score]], equal: Equal) -> tuple[AtK, ...]:
    """mean, maj and pass at 1, 2, 4, ... and all samples; intervals are by question.

    maj@k is the mean over as many blocks of k samples as there are, one after the other; pass@k over all
    choices of k. Both are unbiased, and at k=1 the mean.
    """
    answered = [scores for scores in questions if all(score.category != "error" for score in scores)]
    if not answered:
        return ()
    n = len(answered[0])
    sizes = sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
    rights = [[float(score.correct) for score in scores] for scores in answered]
    found = [AtK("mean", n, *share_interval(rights))]
    for k in sizes:
        starts = range(0, n - k + 1, k)
        blocks = [[float(vote(scores[i : i + k], equal).correct) for i in starts] for scores in answered]
        found.append(AtK("maj", k, *share_interval(blocks)))
    for k in sizes:
        found.append(AtK("pass", k, *share_interval([[pass_at_k(n, int(sum(right)), k)] for right in rights])))
    return tuple(found)
