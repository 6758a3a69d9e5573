"""What a job will ask and cost, before it is asked: from what is stored of it, or from its limits alone.

plan = make_plan(job, questions, store, price, right)
plan.requests, plan.tokens, plan.usd, plan.right
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from cotdistill.budget import Price
from cotdistill.generate import read
from cotdistill.jobs import Job, Work
from cotdistill.records import Generation, Question
from cotdistill.stats import mean_interval, wilson
from cotdistill.store import Store

BYTES_A_TOKEN = 4  # of English text, for prompts that were not counted by a server


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval; `low` and `high` are None where nothing was measured."""

    value: float
    low: float | None = None
    high: float | None = None

    def times(self, factor: float) -> Estimate:
        bounds = [None if bound is None else bound * factor for bound in (self.low, self.high)]
        return Estimate(self.value * factor, *bounds)


@dataclass(frozen=True)
class Plan:
    """What one teacher will be asked.

    `stored` and `missing` count samples of questions; `requests` is an upper bound, with one sample a
    request. `prompt_tokens` and `completion_tokens` are of all that is missing: estimated from the
    `pilot` questions that are answered already, or, where there are none, upper bounds. `right` is the
    share of right rationales, `usd` None where the price is not known.
    """

    teacher: str
    questions: int
    stored: int
    missing: int
    requests: int
    pilot: int
    prompt_tokens: Estimate
    completion_tokens: Estimate
    right: Estimate | None
    usd: Estimate | None


def make_plan(
    teacher: str,
    job: Job,
    questions: Sequence[Question],
    store: Store,
    price: Price | None,
    right: Callable[[Question, Generation], str | None],
) -> Plan:
    """What is missing of a job, and what it will cost; asks for nothing."""
    by_id = {question.id: question for question in questions}
    answered = (g for g in read(job, questions, store, partial=True) if g.finish_reason != "error")
    pilot = [
        [(g.prompt_tokens, g.completion_tokens, right(by_id[g.question_id], g) is not None) for g in group]
        for _, group in groupby(answered, key=lambda g: g.question_id)
    ]
    stored = sum(map(len, pilot))
    missing = len(questions) * job.n - stored
    share = None
    if pilot:
        prompt = _mean([[tokens for tokens, *_ in group] for group in pilot])
        written = _mean([[tokens for _, tokens, _ in group] for group in pilot])
        share = _share([[is_right for *_, is_right in group] for group in pilot])
    else:
        length = sum(len(Work(job, question).prompt[0].encode()) for question in questions) / max(1, len(questions))
        most = job.first.sampling.max_tokens + (job.second.sampling.max_tokens if job.cue else 0)
        # The second prompt holds the first and what it brought.
        repeated = job.first.sampling.max_tokens if job.cue else 0
        prompt = Estimate(math.ceil(length / BYTES_A_TOKEN) * job.steps + repeated)
        written = Estimate(most)
    usd = None
    if price is not None:
        bounds = [
            None if a is None or b is None else price.of(a * missing, b * missing)
            for a, b in ((prompt.low, written.low), (prompt.high, written.high))
        ]
        usd = Estimate(price.of(prompt.value * missing, written.value * missing), *bounds)
    return Plan(
        teacher,
        len(questions),
        stored,
        missing,
        missing * job.steps,
        len(pilot),
        prompt.times(missing),
        written.times(missing),
        share,
        usd,
    )


def _mean(groups: Sequence[Sequence[float]]) -> Estimate:
    """The mean over samples, with an interval over questions, since samples of one are alike."""
    value, low, high = mean_interval(groups)
    return Estimate(value, max(0.0, low), high)


def _share(groups: Sequence[Sequence[bool]]) -> Estimate:
    """A share of samples, as sure as one sample a question would be: no surer is safe to say."""
    value = sum(map(sum, groups)) / sum(map(len, groups))
    return Estimate(value, *wilson(round(value * len(groups)), len(groups)))


def describe(plan: Plan) -> list[str]:
    """The plan in lines for a person."""
    n = plan.pilot
    source = f"from {n} answered questions" if n else "upper bounds; --pilot 20 would measure it"
    prompts, completions = _shown(plan.prompt_tokens), _shown(plan.completion_tokens)
    lines = [
        f"{plan.teacher}: {plan.questions:,} questions, {plan.stored:,} samples stored, {plan.missing:,} missing",
        f"  requests: at most {plan.requests:,}",
        f"  tokens: {prompts} of prompts, {completions} of completions ({source})",
    ]
    if plan.right is not None:
        right = plan.right.times(plan.missing)
        lines.append(
            f"  right rationales: {plan.right.value:.0%} ({plan.right.low:.0%} to {plan.right.high:.0%}), "
            f"{_shown(right)} of those missing"
        )
    if plan.usd is None:
        lines.append(
            "  money: the price is not known; set teacher.price={input: USD, output: USD} for a million tokens"
        )
    else:
        low_high = "" if plan.usd.low is None else f" ({plan.usd.low:,.2f} to {plan.usd.high:,.2f})"
        lines.append(f"  money: {plan.usd.value:,.2f} USD{low_high}")
    return lines


def _shown(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:,.0f}"
    return f"{estimate.value:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})"
