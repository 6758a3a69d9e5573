"""Whether an export is the trained student still: its weights, the token ids of its prompts, its greedy texts.

    trained = Trained.load(student, this)
    trained.refuse_other_prompts("plain prompt", lambda question: tokenizer(...).input_ids)
    found = trained.compare("transformers", [Written(tokens, ended), ...])

The texts are compared in fp32 on the CPU, with what evaluation's own decoding writes. Where two programs round
otherwise, they may part at two tokens of which both are the likeliest: that is told apart from another student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotdistill import progress
from cotdistill.backends.transformers import TransformersBackend, generated
from cotdistill.completions import Completion, Request
from cotdistill.errors import DataError
from cotdistill.exports.job import Student
from cotdistill.measure import sampling
from cotdistill.models import LoadedModel, encode_turns, load_for_training
from cotdistill.records import Question
from cotdistill.runs import Run

if TYPE_CHECKING:
    import torch

CHECKED = 50  # test questions whose texts are compared; the prompts of all are
AT_ONCE = 25  # texts written together
TIE = 1e-3  # of a logit, between two tokens that only rounding tells apart
AROUND = 40  # characters shown before the place where two texts part
SHOWN = 240


@dataclass(frozen=True)
class Written:
    """The tokens of a text without what ended it, and whether it ended by itself, before the most tokens."""

    tokens: list[int]
    ended: bool


@dataclass(frozen=True)
class Trained:
    """A student as training left it, and how it answers the first test questions; `prompts` has those of all."""

    student: Student
    loaded: LoadedModel
    prompts: tuple[tuple[Question, list[int]], ...]
    answers: tuple[Completion, ...]
    max_tokens: int

    @classmethod
    def load(cls, student: Student, this: Run) -> Trained:
        """Load a student and ask it. Raises `DataError` where it can answer none of its questions."""
        loaded = load_for_training(str(student.folder), this.config.student.trust_remote_code)
        loaded.model.to("cpu")  # where a text is the same on every machine, as far as it can be
        method, params = student.method, sampling(this.config.evaluate, student.method)[0]
        prompts = [(q, encode_turns(loaded.tokenizer, (method.prompt(q),), method.chat)) for q in this.task.test]
        backend = TransformersBackend(str(student.folder), method.chat, batch_size=AT_ONCE, loaded=loaded)
        requests = [Request((method.prompt(question),), params) for question, _ in prompts[:CHECKED]]
        at = {id(request): i for i, request in enumerate(requests)}
        written: dict[int, Completion] = {}
        with progress.stage(f"export {student.name}: the student itself", "texts") as advance:
            for request, _, completion in backend.generate(iter(requests)):
                written[at[id(request)]] = completion
                advance(len(written), len(requests))
        asked = [i for i in sorted(written) if written[i].finish_reason != "error"]
        if not asked:
            raise DataError(f"{student.name}: it can answer none of the test questions: {written[0].error}.")
        rest = [i for i in range(len(prompts)) if i not in asked]  # whose prompts alone are compared
        ordered = tuple(prompts[i] for i in [*asked, *rest])
        return cls(student, loaded, ordered, tuple(written[i] for i in asked), params.max_tokens)

    @property
    def asked(self) -> list[list[int]]:
        """The prompts that were answered, as token ids."""
        return [ids for _, ids in self.prompts[: len(self.answers)]]

    def refuse_other_weights(self, what: str, model: Any) -> None:
        """Raise `DataError` unless every tensor of `model` is the student's, bit for bit."""
        import torch

        theirs = model.state_dict()
        for name, weights in self.loaded.model.state_dict().items():
            if name not in theirs or not torch.equal(weights, theirs[name].to(weights.dtype)):
                raise DataError(f"{self.student.name}, {what}: the weights {name!r} are not those of the student.")

    def refuse_other_prompts(self, what: str, encode: Callable[[Question], Sequence[int]]) -> None:
        """Raise `DataError` unless `encode` gives every test question the token ids it has in training."""
        for question, ids in self.prompts:
            theirs = list(encode(question))
            if theirs != ids:
                at = _parting(ids, theirs)
                raise DataError(
                    f"{self.student.name}, {what}: the prompt of {question.id} has other token ids than in training, "
                    f"from token {at} on.\n"
                    f"student: {ids[at : at + 8]} {self._decode(ids[at : at + 8])!r}\n"
                    f"export:  {theirs[at : at + 8]} {self._decode(theirs[at : at + 8])!r}"
                )

    def compare(self, what: str, written: Sequence[Written]) -> dict[str, int]:
        """How many texts are the same, of `questions`; `ties` part where only rounding decides.

        `ended` are those that end by themselves where the student's was stopped or ended. Raises `DataError` at the
        first that is another text.
        """
        found = {"questions": len(written), "same": 0, "ties": 0, "ended": 0, "to_end": 0}
        asked = self.prompts[: len(self.answers)]
        for (question, ids), ours, theirs in zip(asked, self.answers, written, strict=True):
            if any(token in self.loaded.eos_ids for token in theirs.tokens):
                raise DataError(
                    f"{self.student.name}, {what}: the text of {question.id} goes on past its end of sequence, "
                    f"{self._decode(theirs.tokens, special=True)[-SHOWN:]!r}."
                )
            if self._same(ours, theirs):
                found["same"] += 1
            elif self._greedy(ids, theirs):
                found["ties"] += 1
            else:
                raise self._other_text(what, question, ours, theirs)
            found["to_end"] += ours.finish_reason == "stop"
            found["ended"] += ours.finish_reason == "stop" and theirs.ended
        return found

    def end_ids(self) -> list[int]:
        """The tokens that end a text: those of the model, and each stop string that is one token."""
        return sorted({*self.loaded.eos_ids, *stop_ids(self.loaded.tokenizer, self.student.method.stop)})

    def _decode(self, tokens: Sequence[int], special: bool = False) -> str:
        decode = self.loaded.tokenizer.decode
        return str(decode(list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False))

    def _same(self, ours: Completion, theirs: Written) -> bool:
        text, stopped = self._cut(theirs)
        if ours.finish_reason == "length":  # also a text that evaluation ended since it went round in circles
            return text.startswith(ours.text.rstrip("\ufffd"))  # a character may be cut in its bytes
        return text == ours.text and (stopped or theirs.ended)

    def _cut(self, written: Written) -> tuple[str, bool]:
        """The text before its first stop string, and whether it has one."""
        text = self._decode(written.tokens)
        ends = [text.find(stop) for stop in self.student.method.stop if stop in text]
        return (text[: min(ends)], True) if ends else (text, False)

    def _greedy(self, ids: list[int], written: Written) -> bool:
        """Whether each token, and the end, is the likeliest of the trained student or as likely but for rounding."""
        tokens, (_, stopped) = written.tokens, self._cut(written)
        if stopped:  # what is behind a stop string counts for nothing
            until = next(n for n in range(len(tokens) + 1) if self._cut(Written(tokens[:n], False))[1])
            tokens = tokens[:until]
        scores = self._scores(ids, tokens)
        gaps = scores.max(-1).values
        for i, token in enumerate(tokens):
            gaps[i] -= scores[i, token]
        if stopped or len(tokens) >= self.max_tokens:
            gaps = gaps[:-1]
        else:
            gaps[-1] -= scores[-1, self.end_ids()].max()
        return bool((gaps < TIE).all())

    def _scores(self, ids: list[int], tokens: list[int]) -> torch.Tensor:
        """The logits (tokens and the end, vocabulary) of the student, had it written `tokens`."""
        import torch

        model = self.loaded.model
        with torch.inference_mode():
            if self.loaded.seq2seq:
                begun = torch.tensor([[model.config.decoder_start_token_id, *tokens]])
                logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=begun).logits
            else:
                logits = model(input_ids=torch.tensor([ids + tokens])).logits[:, len(ids) - 1 :]
        scores: torch.Tensor = logits[0].float().clone()
        return scores

    def _other_text(self, what: str, question: Question, ours: Completion, theirs: Written) -> DataError:
        text = self._cut(theirs)[0]
        at = _parting(ours.text, text)
        begin = max(0, at - AROUND)
        return DataError(
            f"{self.student.name}, {what}: another text than the trained student's for {question.id}, from character "
            f"{at} on{'' if theirs.ended or text != ours.text else ': it does not end there'}.\n"
            f"student: {ours.text[begin : begin + SHOWN]!r}\n"
            f"export:  {text[begin : begin + SHOWN]!r}"
        )


def stop_ids(tokenizer: Any, stops: Sequence[str]) -> list[int]:
    """The stop strings that are one token: to end at that token is to end where evaluation stopped."""
    encoded = {stop: tokenizer.encode(stop, add_special_tokens=False) for stop in stops}
    return [ids[0] for stop, ids in encoded.items() if len(ids) == 1 and tokenizer.decode(ids) == stop]


def greedy(name: str, model: Any, prompts: Sequence[list[int]], pad_id: int, **more: Any) -> list[Written]:
    """What `generate` of transformers writes, as the model's folder has it configured, but for `more`.

    `name` is what a person sees.
    """
    ends = more.get("eos_token_id", model.generation_config.eos_token_id)
    ends = {ends} if isinstance(ends, int) else {*(ends or ())}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    written: dict[int, Written] = {}
    with progress.stage(f"export {name}", "texts") as advance:
        for start in range(0, len(order), AT_ONCE):
            batch = order[start : start + AT_ONCE]
            rows = generated(model, [prompts[i] for i in batch], pad_id, **more)
            written |= {i: _until_end(row, ends) for i, row in zip(batch, rows, strict=True)}
            advance(len(written), len(prompts))
    return [written[i] for i in range(len(prompts))]


def _until_end(row: list[int], ends: set[int]) -> Written:
    """A row of a batch goes on with pads where it has ended."""
    at = next((i for i, token in enumerate(row) if token in ends), None)
    return Written(row if at is None else row[:at], at is not None)


def _parting(ours: Sequence[Any], theirs: Sequence[Any]) -> int:
    """The first place where two sequences differ."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
