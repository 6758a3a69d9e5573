"""The exact prompts and completions of the paper: a space more or less changes results."""

from __future__ import annotations

import pytest

from cotdistill.methods import METHODS
from cotdistill.records import Question

QUESTION = Question("1", "\n How many? ", "5")

ROWS = {
    # name: prompt, second cue, completion for ("\n2 + 3 = 5. ", " 5 "), max_tokens, answer_tokens, stop, cue
    "zero_shot": ("Q: How many?\n\nA:", None, None, 32, 0, (), None),
    "zero_shot_cot": (
        "Q: How many?\nA: Let's think step by step.",
        "\nTherefore, the answer is",
        None,
        *(128, 32, (), None),
    ),
    "fine_tune": ("How many? ###", None, " 5 END", 32, 0, (" END",), None),
    "fine_tune_cot": ("How many? ###", None, " 2 + 3 = 5. --> 5 END", 256, 0, (" END",), "-->"),
}


@pytest.mark.parametrize("name", METHODS)
def test_words(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    completion = method.completion("\n2 + 3 = 5. ", " 5 ") if method.completion else None
    assert ROWS[name] == (
        method.prompt(QUESTION),
        method.answer_cue,
        completion,
        *(method.max_tokens, method.answer_tokens, method.stop, method.cue),
    )
    assert method.trained is (completion is not None)
    assert method.learns_rationale is (name == "fine_tune_cot")


def test_inner_white_space_stays() -> None:
    question = Question("1", "a  b\n c", "5")
    assert METHODS["fine_tune"].prompt(question) == "a  b\n c ###"
    completion = METHODS["fine_tune_cot"].completion
    assert completion is not None
    assert completion("x\n\ny", "1  2") == " x\n\ny --> 1  2 END"
