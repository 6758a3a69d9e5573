"""What hosted models cost, for estimates and budgets; the user's own `teacher.price` goes before."""

from __future__ import annotations

from cotdistill.budget import Price
from cotdistill.config import TeacherConfig

# US dollars for a million tokens, input and output, as of March 2026: https://platform.openai.com/docs/pricing.
PRICES = {
    "gpt-5": Price(1.25, 10.0),
    "gpt-5-mini": Price(0.25, 2.0),
    "gpt-5-nano": Price(0.05, 0.4),
    "gpt-4.1": Price(2.0, 8.0),
    "gpt-4.1-mini": Price(0.4, 1.6),
    "gpt-4.1-nano": Price(0.1, 0.4),
    "gpt-4o": Price(2.5, 10.0),
    "gpt-4o-mini": Price(0.15, 0.6),
}
BATCH = 0.5  # of the price: https://platform.openai.com/docs/guides/batch
OPENAI = "https://api.openai.com/"


def price_of(teacher: TeacherConfig) -> Price | None:
    """The price of a teacher's tokens; nothing for a model in process or on record; None where it is not known."""
    if teacher.price is not None:
        return Price(teacher.price.input, teacher.price.output)  # what the user says holds for the mode they use
    if teacher.backend != "openai":
        return Price(0, 0)
    known = PRICES.get(teacher.model) if teacher.base_url.startswith(OPENAI) else None
    if known is None:
        return None
    share = BATCH if teacher.mode == "batch" else 1
    return Price(known.input * share, known.output * share)
