"""A local model through Hugging Face transformers: batched, sorted by length, padded where it does not show.

Each sample draws from a generator of its own seed, so the same request gives the same text in any
batch (as far as the kernels round alike). refill.py decodes; `generate` of transformers does where that cannot.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.models import LoadedModel, encode_turns, load_model, model_identity
from cotdistill.progress import say

if TYPE_CHECKING:
    import torch

REQUESTS_AT_ONCE = 4096  # sorted by length together


class TransformersBackend:
    """A Hugging Face id or a local folder, on a GPU where there is one; `chat` uses its template.

    `batch_size` in sequences; `loaded` is used in place of `model`, and nothing is said of it.
    Raises `BackendError` if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        chat: bool = False,
        system: str = "",
        batch_size: int = 64,
        trust_remote_code: bool = False,
        loaded: LoadedModel | None = None,
    ) -> None:
        self.model = model
        self.trust_remote_code = trust_remote_code
        self.chat = chat
        self.system = system
        self.batch_size = batch_size
        if loaded:
            self.loaded = loaded
        self.quiet = loaded is not None

    @cached_property
    def identity(self) -> Mapping[str, str]:
        identity = {**model_identity(self.model), "form": "chat" if self.chat else "completion"}
        return {**identity, "system": self.system} if self.system else identity

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(self.model, self.trust_remote_code)

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        """Many at a time, those sampled in one way together."""
        looped = 0
        while waiting := list(itertools.islice(iter(lambda: next(requests, None), None), REQUESTS_AT_ONCE)):
            for params in dict.fromkeys(request.params for request in waiting):
                looped += yield from self._sample([request for request in waiting if request.params == params], params)
        if looped and not self.quiet:
            say(f"evaluate: {looped} texts that went on repeating themselves were ended early")

    def _sample(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> Generator[tuple[Request, int, Completion], None, int]:
        """Longest prompts first: too little memory shows at once, and batches hold few pads.

        Returns how many texts were ended since they repeated themselves.
        """
        room = getattr(self.loaded.model.config, "max_position_embeddings", sys.maxsize)
        if not self.loaded.seq2seq:  # where prompt and completion share the positions
            room -= params.max_tokens
        rows: list[tuple[list[int], Request, int]] = []
        for request in requests:
            ids = self._encode(request)
            rows += ((ids, request, sample) for sample in request.samples)
        rows.sort(key=lambda row: -len(row[0]))
        while rows and len(rows[0][0]) > room:
            ids, request, sample = rows.pop(0)
            reason = f"the prompt has {len(ids)} tokens, and the model room for {room}"
            yield request, sample, Completion("", "error", error=reason)
        looped = 0
        prompts, seeds = [ids for ids, _, _ in rows], [request.seed(sample) for _, request, sample in rows]
        for i, tokens, repeats in self._decode(prompts, seeds, params):
            ids, request, sample = rows[i]
            looped += repeats
            yield request, sample, self.completion(tokens, len(ids), params)
        return looped

    def _decode(
        self, prompts: list[list[int]], seeds: list[int], params: SamplingParams
    ) -> Iterator[tuple[int, list[int], bool]]:
        """Yield (position of the prompt, tokens, whether it repeated itself), as each text or batch ends."""
        from cotdistill.backends.refill import can_refill, decode

        if not self.loaded.seq2seq and can_refill(self.loaded.model):
            yield from decode(self.loaded, prompts, seeds, params, self.batch_size)
            return
        for start in range(0, len(prompts), self.batch_size):
            part = slice(start, start + self.batch_size)
            for i, tokens in enumerate(self._batch(prompts[part], seeds[part], params), start):
                yield i, tokens, False

    def _encode(self, request: Request) -> list[int]:
        return encode_turns(self.loaded.tokenizer, request.prompt, self.chat, self.system)

    def _batch(self, prompts: list[list[int]], seeds: list[int], params: SamplingParams) -> list[list[int]]:
        choice = [SeededChoice(seeds, params)] if params.temperature > 0 else []
        stops = {"stop_strings": list(params.stop), "tokenizer": self.loaded.tokenizer} if params.stop else {}
        return self.run_batch(prompts, params.max_tokens, logits_processor=choice, **stops)

    def run_batch(self, prompts: list[list[int]], max_tokens: int, **options: Any) -> list[list[int]]:
        """The tokens of one batch, run until its last text ends, by `generate` of transformers with `options`."""
        return generated(
            self.loaded.model,
            prompts,
            self.loaded.pad_id,
            max_new_tokens=max_tokens,
            do_sample=False,  # a logits processor has chosen
            eos_token_id=self.loaded.eos_ids,
            pad_token_id=self.loaded.pad_id,
            **options,
        )

    def completion(self, row: list[int], prompt_tokens: int, params: SamplingParams) -> Completion:
        """What the tokens of a row say, up to its end or the first stop string."""
        ends = [i for i, token in enumerate(row) if token in self.loaded.eos_ids]
        tokens = row[: ends[0]] if ends else row
        text = self.loaded.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cuts = [text.find(stop) for stop in params.stop if stop in text]
        if cuts:
            # A row that met a stop string is padded until the batch ends, with EOS where that is the pad.
            while tokens and tokens[-1] == self.loaded.pad_id:
                tokens.pop()
            return Completion(text[: min(cuts)], "stop", prompt_tokens, len(tokens))
        return Completion(text, "stop" if ends else "length", prompt_tokens, len(tokens) + bool(ends))


def generated(model: Any, prompts: Sequence[list[int]], pad_id: int, **options: Any) -> list[list[int]]:
    """The tokens that `generate` of transformers writes after each prompt, up to the end of the last text."""
    import torch

    width, seq2seq = max(map(len, prompts)), model.config.is_encoder_decoder

    def padded(row: list[int], fill: int) -> list[int]:
        filler = [fill] * (width - len(row))
        return row + filler if seq2seq else filler + row  # a causal model goes on from the last column

    ids = torch.tensor([padded(prompt, pad_id) for prompt in prompts], device=model.device)
    mask = torch.tensor([padded([1] * len(prompt), 0) for prompt in prompts], device=model.device)
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=mask, **options)
    # A causal model repeats the prompts; an encoder-decoder one begins with its decoder's start token.
    return output[:, 1 if seq2seq else width :].tolist()  # type: ignore[no-any-return]


class SeededChoice:
    """Leaves one token a row, drawn from its probabilities with a generator of the row's own seed."""

    def __init__(self, seeds: Sequence[int], params: SamplingParams) -> None:
        import torch

        self.params = params
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        from cotdistill.backends.refill import choose

        chosen = choose(scores.float(), self.params, self.generators)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen[:, None], 0.0)
