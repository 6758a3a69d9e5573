"""The exact prompts and completions of the paper: a space more or less changes results."""

from __future__ import annotations

import pytest

from cotdistill.errors import ConfigError
from cotdistill.methods import FORMS, METHODS, methods, teacher_method
from cotdistill.records import Question

QUESTION = Question("1", "\n How {many}? ", " 5 ")
EXEMPLARS = (Question("a", " One? ", " 1 ", rationale=" It is 1. "), Question("b", "Two?", "2", rationale="Two."))
SHOTS = "Q: One?\nA: It is 1. The answer is 1.\nQ: Two?\nA: Two. The answer is 2.\nQ: How {many}?\nA:"

ROWS = {
    # name: prompt, second cue, completion for ("\n2 + 3 = 5. ", " 5 "), max_tokens, answer_tokens, stop, cue
    "zero_shot": ("Q: How {many}?\n\nA:", None, None, 32, 0, (), None),
    "zero_shot_cot": (
        "Q: How {many}?\nA: Let's think step by step.",
        "\nTherefore, the answer is",
        None,
        *(128, 32, (), None),
    ),
    "few_shot_cot": (SHOTS, None, None, 128, 0, ("Q:",), "The answer is"),
    "fine_tune": ("How {many}? ###", None, " 5 END", 32, 0, (" END",), None),
    "fine_tune_cot": ("How {many}? ###", None, " 2 + 3 = 5. --> 5 END", 256, 0, (" END",), "-->"),
    "self_consistency": ("How {many}? ###", None, " 2 + 3 = 5. --> 5 END", 256, 0, (" END",), "-->"),
}


@pytest.mark.parametrize("name", METHODS)
def test_words(name: str) -> None:
    method = methods(exemplars=EXEMPLARS)[name]
    assert method.name == name
    completion = method.completion(QUESTION, "\n2 + 3 = 5. ") if method.completion else None
    assert ROWS[name] == (
        method.prompt(QUESTION),
        method.answer_cue,
        completion,
        *(method.max_tokens, method.answer_tokens, method.stop, method.cue),
    )
    assert method.trained is (completion is not None)
    assert method.learns_rationale is (method.taught_as == "fine_tune_cot")
    assert method.sampled is (name == "self_consistency")


@pytest.mark.parametrize(
    ("form", "seq2seq", "answers", "rationales", "stop"),
    [
        ("paper_gpt3", False, ("Q?\n\n ### \n\n", " 5 END"), ("Q?\n\n###\n\n", " R\n\n-->\n\n5 END"), (" END",)),
        (
            "natural",
            False,
            ("Q: Q?\n\nA:", " 5 END"),
            ("Q: Q?\n\nA: Let's think step by step.\n\n", " R\n\nTherefore, the answer is\n\n5 END"),
            (" END",),
        ),
        ("chat", False, ("Q?", "5"), ("Q?", "R\n\nTherefore, the answer is 5"), ()),
        ("paper", True, ("Q?", "5"), ("Q?", "R --> 5"), ()),
    ],
)
def test_forms(
    form: str, seq2seq: bool, answers: tuple[str, str], rationales: tuple[str, str], stop: tuple[str, ...]
) -> None:
    known = methods(form, seq2seq)
    for name, (prompt, written) in (("fine_tune", answers), ("fine_tune_cot", rationales)):
        method = known[name]
        assert method.completion is not None
        question = Question("1", "Q?", "5")
        assert (method.prompt(question), method.completion(question, "R")) == (prompt, written)
        assert method.stop == stop
        assert method.chat is (form == "chat")
    cue = known["fine_tune_cot"].cue
    assert cue is not None
    assert cue in rationales[1]


def test_an_encoder_decoder_student_has_one_form() -> None:
    assert methods(seq2seq=True)["zero_shot"].prompt(QUESTION) == "question: How {many}?"
    for form in FORMS.keys() - {"paper"}:
        with pytest.raises(ConfigError, match=r"student\.format"):
            methods(form, seq2seq=True)


def test_without_exemplars_there_is_no_few_shot_prompt() -> None:
    with pytest.raises(ConfigError, match=r"task\.exemplars"):
        METHODS["few_shot_cot"].prompt(QUESTION)


@pytest.mark.parametrize(
    ("cue", "answer_type", "options", "expected"),
    [
        ("paper", "number", 0, "\nTherefore, the answer is"),
        ("paper", "choice", 3, "\nTherefore, the answer is"),
        ("kojima", "number", 0, " \nTherefore, the answer (arabic numerals) is"),
        ("kojima", "integer", 0, " \nTherefore, the answer (arabic numerals) is"),
        ("kojima", "choice", 5, " \nTherefore, among A through E, the answer is"),
        ("kojima", "choice", 6, " \nTherefore, among A through F, the answer is"),
        ("kojima", "choice", 3, " \nTherefore, among A through C, the answer is"),
        ("kojima", "yes_no", 0, " \nTherefore, the answer (Yes or No) is"),
        ("kojima", "text", 0, " \nTherefore, the answer is"),
    ],
)
def test_a_teachers_second_prompt(cue: str, answer_type: str, options: int, expected: str) -> None:
    method = teacher_method("zero_shot_cot", cue, answer_type, options)
    assert method.answer_cue == expected
    assert method.prompt(QUESTION) == "Q: How {many}?\nA: Let's think step by step."


def test_teachers_that_are_asked_once() -> None:
    shots = teacher_method("few_shot_cot", exemplars=EXEMPLARS)
    assert (shots.prompt(QUESTION), shots.answer_cue, shots.cue) == (SHOTS, None, "The answer is")
    one = teacher_method("one_step", answer_type="choice", options=4)
    assert one.prompt(QUESTION) == ("How {many}?\n\nThink step by step, and end with one line: The answer is <letter>.")
    assert (one.answer_cue, one.cue) == (None, "The answer is")


def test_inner_white_space_stays() -> None:
    question = Question("1", "a  b\n c", "1  2")
    assert METHODS["fine_tune"].prompt(question) == "a  b\n c ###"
    completion = METHODS["fine_tune_cot"].completion
    assert completion is not None
    assert completion(question, "x\n\ny") == " x\n\ny --> 1  2 END"
