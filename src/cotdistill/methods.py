"""How each method asks, and what a student learns to write: the rows of the paper's table.

    >>> METHODS["zero_shot_cot"].prompt(question)
    "Q: How many ...?\\nA: Let's think step by step."
    >>> METHODS["fine_tune_cot"].completion(question, " 2 + 3 = 5.")
    ' 2 + 3 = 5. --> 5 END'

`METHODS` are in the paper's form; `methods` makes those of another form or with exemplars, and
`teacher_method` the ways to ask a teacher. A white space more or less changes results, so every
prompt is spelled out here and nowhere else. Sources: the paper, section 3, and
https://github.com/itsnamgyu/reasoning-teacher, src/data/format.py; Kojima et al. 2022,
https://github.com/kojima-takeshi188/zero_shot_cot, main.py and utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from cotdistill.errors import ConfigError
from cotdistill.records import Question
from cotdistill.styles import short

STEP_BY_STEP = "Q: {q}\nA: Let's think step by step."
PAPER_CUE = "\nTherefore, the answer is"  # one for all tasks
ANSWER_IS = "The answer is"


@dataclass(frozen=True)
class Method:
    """One way to ask for an answer.

    `prompt` makes the first prompt; `answer_cue`, where there is one, asks for the answer after the
    raw text that followed. `completion(question, rationale)` is what a student is trained to write, `None` where
    the model is used as it is. Where there is a `cue` the answer stands after it, where there is a `mark` before
    it. `max_tokens` and `answer_tokens` limit the two completions, in tokens. `chat`: the model's own chat template
    is used. `sampled`: the answer is the most frequent of several. A student is trained in the styles of `others`
    too, by `weights`, and asked in this one.
    """

    name: str
    prompt: Callable[[Question], str]
    max_tokens: int
    answer_cue: str | None = None
    answer_tokens: int = 0
    completion: Callable[[Question, str], str] | None = None
    learns_rationale: bool = False
    cue: str | None = None
    mark: str | None = None
    stop: tuple[str, ...] = ()
    chat: bool = False
    sampled: bool = False
    others: tuple[Method, ...] = ()
    weights: tuple[float, ...] = (1.0,)

    @property
    def trained(self) -> bool:
        return self.completion is not None

    @property
    def taught_as(self) -> str:
        """The method whose student answers: self_consistency trains none of its own."""
        return "fine_tune_cot" if self.sampled else self.name

    def style_of(self, question_id: str, index: int) -> Method:
        """This, or of several styles the one drawn for a sample of a question, whatever the other samples are."""
        if not self.others:
            return self
        return Random(f"{index} {question_id!a}").choices((self, *self.others), self.weights)[0]


@dataclass(frozen=True)
class Form:
    """What a student reads and writes, of `{q}`uestion, `{r}`ationale and `{a}`nswer, all stripped.

    A causal student also learns to end with its end-of-sequence token, an encoder-decoder one with its own.
    With the answer first the prompt is `answer_prompt`: the other may ask to think before.
    """

    answer_prompt: str
    answer: str
    rationale_prompt: str
    rationale: str
    answer_first: str
    cue: str
    mark: str
    stop: tuple[str, ...] = (" END",)
    chat: bool = False
    zero_shot: str = "Q: {q}\n\nA:"


FORMS: dict[str, Form] = {
    # Figure 2 of the paper, and the authors' current code. They have no answer first: that is ours in each form.
    "paper": Form("{q} ###", " {a} END", "{q} ###", " {r} --> {a} END", " {a} <-- {r} END", cue="-->", mark="<--"),
    # Behind the GPT-3 numbers: the authors' first code, data/finetune.py. The two delimiters differ there too.
    "paper_gpt3": Form(
        "{q}\n\n ### \n\n",
        " {a} END",
        "{q}\n\n###\n\n",
        " {r}\n\n-->\n\n{a} END",
        " {a}\n\n<--\n\n{r} END",
        cue="-->",
        mark="<--",
    ),
    "natural": Form(
        "Q: {q}\n\nA:",
        " {a} END",
        "Q: {q}\n\nA: Let's think step by step.\n\n",
        " {r}\n\nTherefore, the answer is\n\n{a} END",
        " {a}\n\nExplanation: {r} END",
        cue="Therefore, the answer is",
        mark="Explanation:",
    ),
    "chat": Form(
        "{q}",
        "{a}",
        "{q}",
        "{r}\n\nTherefore, the answer is {a}",
        "{a}\n\nExplanation: {r}",
        cue="Therefore, the answer is",
        mark="Explanation:",
        stop=(),
        chat=True,
    ),
}

# The authors' form for T5: an encoder-decoder model needs no delimiter. T5 cannot write <--: it has no token for <.
SEQ2SEQ = Form(
    "{q}",
    "{a}",
    "{q}",
    "{r} --> {a}",
    "{a} Explanation: {r}",
    cue="-->",
    mark="Explanation:",
    stop=(),
    zero_shot="question: {q}",
)


def _prompt(template: str, question: Question) -> str:
    return template.format(q=question.text.strip())


def _completion(template: str, question: Question, rationale: str) -> str:
    return template.format(r=rationale.strip(), a=question.answer.strip())


def _short_completion(template: str, question: Question, rationale: str) -> str:
    return _completion(template, question, short(question, rationale))


def _named(prompt: Callable[[Question], str], name: str, question: Question) -> str:
    return prompt(replace(question, text=f"{question.text.strip()} [{name.replace('_', ' ')}]"))


def _few_shot(exemplars: Sequence[Question], question: Question) -> str:
    if not exemplars:
        raise ConfigError(
            "few_shot_cot: there are no exemplars for this task.\n"
            "Set task.exemplars to a JSONL file with question, rationale and answer, or leave the method out."
        )
    shots = [f"Q: {e.text.strip()}\nA: {e.rationale.strip()} {ANSWER_IS} {e.answer.strip()}." for e in exemplars]
    return "\n".join([*shots, f"Q: {question.text.strip()}\nA:"])


def _styles(f: Form) -> dict[str, Method]:
    """fine_tune_cot by what the student writes."""
    full = Method(
        "fine_tune_cot",
        partial(_prompt, f.rationale_prompt),
        max_tokens=256,
        completion=partial(_completion, f.rationale),
        learns_rationale=True,
        cue=f.cue,
        stop=f.stop,
        chat=f.chat,
    )
    return {
        "full": full,
        "short": replace(full, completion=partial(_short_completion, f.rationale)),
        # Stopped at its mark, it costs no more than fine_tune.
        "answer_first": replace(
            full,
            prompt=partial(_prompt, f.answer_prompt),
            max_tokens=32,
            completion=partial(_completion, f.answer_first),
            cue=None,
            mark=f.mark,
            stop=(f.mark, *f.stop),
        ),
    }


STYLES = tuple(_styles(SEQ2SEQ))


def _mixed(styles: Mapping[str, Method], weights: Mapping[str, float]) -> Method:
    """The first style of `weights`; the others' prompts name them, for they are told apart by nothing else."""
    first, *names = weights
    others = [replace(styles[name], prompt=partial(_named, styles[name].prompt, name)) for name in names]
    return replace(styles[first], others=tuple(others), weights=tuple(weights.values()))


def methods(
    form: str = "paper",
    seq2seq: bool = False,
    exemplars: Sequence[Question] = (),
    rationale: str | Mapping[str, float] = "full",
) -> dict[str, Method]:
    """The methods by name, for students of a `form` (a key of FORMS), with the task's `exemplars`.

    `rationale` is what fine_tune_cot writes: one of STYLES, or several with their weights, asked in the first.
    Raises `ConfigError` for a form that an encoder-decoder student does not have.
    """
    if seq2seq and form != "paper":
        raise ConfigError(f"student.format: an encoder-decoder student is asked in the paper's form, not {form!r}.")
    f = SEQ2SEQ if seq2seq else FORMS[form]
    cot = _mixed(_styles(f), {rationale: 1.0} if isinstance(rationale, str) else rationale)
    rows = (
        Method("zero_shot", partial(_prompt, f.zero_shot), max_tokens=32, chat=f.chat),
        Method(
            "zero_shot_cot",
            partial(_prompt, STEP_BY_STEP),
            max_tokens=128,
            answer_cue=PAPER_CUE,
            answer_tokens=32,
            chat=f.chat,
        ),
        Method("few_shot_cot", partial(_few_shot, tuple(exemplars)), 128, cue=ANSWER_IS, stop=("Q:",), chat=f.chat),
        Method(
            "fine_tune",
            partial(_prompt, f.answer_prompt),
            max_tokens=32,
            completion=partial(_completion, f.answer),
            stop=f.stop,
            chat=f.chat,
        ),
        cot,
        replace(cot, name="self_consistency", sampled=True),  # Wang et al. 2022, https://arxiv.org/abs/2203.11171
    )
    return {method.name: method for method in rows}


METHODS = methods()

# How a teacher is asked for the answer after its rationale, by answer type, in Kojima et al.; one space before.
KOJIMA_CUES = {
    "number": " \nTherefore, the answer (arabic numerals) is",
    "integer": " \nTherefore, the answer (arabic numerals) is",
    "choice": " \nTherefore, among A through {last}, the answer is",
    "yes_no": " \nTherefore, the answer (Yes or No) is",
}
KOJIMA_OTHERS = " \nTherefore, the answer is"

# What a chat model is told to end with, by answer type.
ONE_STEP = "{q}\n\nThink step by step, and end with one line: The answer is %s."
ONE_STEP_ANSWERS = {
    "number": "<number>",
    "integer": "<whole number>",
    "choice": "<letter>",
    "yes_no": "<yes or no>",
    "date": "<MM/DD/YYYY>",
}

# Nobody is asked: the questions come with rationales, and the known answers.
HUMAN = Method("human", partial(_prompt, "{q}"), max_tokens=0, answer_cue=PAPER_CUE)


def teacher_method(
    style: str, cue: str = "paper", answer_type: str = "text", options: int = 0, exemplars: Sequence[Question] = ()
) -> Method:
    """How a teacher is asked: `style` and `cue` as in TeacherConfig; `options` is the most that a question has.

    `zero_shot_cot` costs two requests a rationale, `few_shot_cot` and `one_step` cost one.
    """
    if style == "human":
        return HUMAN
    if style == "few_shot_cot":
        return methods(exemplars=exemplars)["few_shot_cot"]
    if style == "one_step":
        prompt = ONE_STEP % ONE_STEP_ANSWERS.get(answer_type, "<answer>")
        return Method("one_step", partial(_prompt, prompt), max_tokens=128, cue=ANSWER_IS)
    answer_cue = PAPER_CUE
    if cue == "kojima":
        answer_cue = KOJIMA_CUES.get(answer_type, KOJIMA_OTHERS).format(last=chr(ord("A") + max(options or 5, 1) - 1))
    return Method(
        "zero_shot_cot", partial(_prompt, STEP_BY_STEP), max_tokens=128, answer_cue=answer_cue, answer_tokens=32
    )


def student_teacher(student: Method, served: bool = True) -> Method:
    """How a served student is asked for rationales: the question alone, which its server puts into its own form.

    That must be the form of `student`, the one to be taught: answers are read so. Raises `ConfigError` for one that
    is not `served`, as a chat, and for a student that stops before its rationale.
    """
    if not served:
        raise ConfigError(
            "teacher.style: student is for one that `cotdistill serve` serves.\n"
            "Set teacher.backend=openai and teacher.api=chat."
        )
    if student.mark:
        raise ConfigError(
            "teacher.style: student, asked with student.rationale: answer_first, would write no rationale.\n"
            "Choose student.rationale=full or short."
        )
    return replace(
        student, name="student", prompt=partial(_prompt, "{q}"), completion=None, learns_rationale=False, chat=True
    )
