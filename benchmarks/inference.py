"""How fast a local student answers: our refilled batches beside plain `model.generate`, one by one and in batches.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/inference.py --model runs/quickstart/student/fine_tune_cot-0

Greedy answers of up to 128 new tokens to the test questions of the built-in word problems, in the paper's form; no
other data is needed. The ways take turns, in one process:

    refill       ours, as `evaluate` runs it in the quickstart: all questions at once, unless --batch-size says less
    own sdpa     the same with transformers' attention, not that of cache.py
    static 32    `model.generate` on 32 prompts at a time in the order of the questions, padded on the left
    static 8     the same on 8
    one by one   the same on 1, of every n-th question only (--single of them); its seconds are extrapolated

--ways leaves some out: one by one alone takes minutes. On a GPU take more --questions and a larger --batch-size. All
ways stop at the same stop strings. "useful" is the share of row-steps (a row in a forward pass) that wrote a token of
an answer. How much refilling saves depends on how the lengths of the answers differ, so measure it with a fine-tuned
student: `make run` leaves the one above. The default, the embedded student as it comes, hardly ever ends.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import cotdistill.backends.refill
import machine
from cotdistill import models
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Completion, Request
from cotdistill.config import TaskConfig
from cotdistill.generate import first_params
from cotdistill.methods import METHODS
from cotdistill.tasks import load_task

Way = Callable[[Sequence[Request]], list[Completion]]
WAYS = ("own sdpa", "static 32", "static 8", "one by one")
USUAL = WAYS[1:]
ON_GPU = 100_000  # tokens a second of ours, at 135M
METHOD = METHODS["fine_tune_cot"]


def refill(backend: TransformersBackend, requests: Sequence[Request]) -> list[Completion]:
    found = {request: completion for request, _, completion in backend.generate(iter(requests))}
    return [found[request] for request in requests]


def own_attention(backend: TransformersBackend, requests: Sequence[Request]) -> list[Completion]:
    with patch.object(cotdistill.backends.refill, "attend_grouped", lambda model: None):
        backend.loaded.model.set_attn_implementation("sdpa")
        return refill(backend, requests)


def static(backend: TransformersBackend, size: int, requests: Sequence[Request]) -> list[Completion]:
    """As a user of transformers would write it."""
    import torch

    backend.loaded.model.set_attn_implementation("sdpa")  # as it comes: ours has changed it
    model, tokenizer, pad = backend.loaded.model, backend.loaded.tokenizer, backend.loaded.pad_id
    found: list[Completion] = []
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        inputs = tokenizer(["".join(r.prompt) for r in batch], return_tensors="pt", padding=True, padding_side="left")
        params, width = batch[0].params, inputs.input_ids.shape[1]
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                max_new_tokens=params.max_tokens,
                do_sample=False,
                eos_token_id=backend.loaded.eos_ids,
                pad_token_id=pad,
                stop_strings=list(params.stop),
                tokenizer=tokenizer,
            )
        for row, mask in zip(output[:, width:].tolist(), inputs.attention_mask, strict=True):
            found.append(backend.completion(row, int(mask.sum()), params))
    return found


def measured(backend: TransformersBackend, way: Way, requests: Sequence[Request]) -> dict[str, float]:
    """Seconds, by the clock and of all cores, tokens written, texts cut at the limit and row-steps of one way."""
    steps = 0

    def count(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        nonlocal steps
        steps += len(options["input_ids"])

    hook = backend.loaded.model.register_forward_pre_hook(count, with_kwargs=True)
    started, cpu_started = time.perf_counter(), time.process_time()
    completions = way(requests)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    hook.remove()
    tokens, cut = sum(c.completion_tokens for c in completions), sum(c.finish_reason == "length" for c in completions)
    return {"seconds": seconds, "cpu": cpu, "tokens": tokens, "cut": cut, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=models.EMBEDDED, help="a folder or an id; none: the embedded student")
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=150, help="of ours")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--single", type=int, default=10, help="questions asked one by one")
    parser.add_argument("--same", type=int, default=30, help="questions whose text in fp32 is compared")
    parser.add_argument("--rounds", type=int, default=3, help="in turns; ratios are within a round, and their median")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=USUAL, help="beside ours")
    arguments = parser.parse_args()
    print(machine.describe(), flush=True)
    questions = load_task(TaskConfig(name="word_problems", test=arguments.questions)).test
    params = first_params(METHOD, arguments.max_tokens)
    requests = [Request((METHOD.prompt(question),), params) for question in questions]
    backend = TransformersBackend(arguments.model, batch_size=arguments.batch_size)
    single = requests[:: max(1, len(requests) // arguments.single)][: arguments.single]
    if arguments.model == models.EMBEDDED:
        print("not fine-tuned, so hardly a text ends by itself: a fine-tuned student gains more from refilling")

    beside: dict[str, tuple[Way, Sequence[Request]]] = {
        "own sdpa": (partial(own_attention, backend), requests),
        "static 32": (lambda asked: static(backend, 32, asked), requests),
        "static 8": (lambda asked: static(backend, 8, asked), requests),
        "one by one": (lambda asked: static(backend, 1, asked), single),
    }
    ways = {"refill": (partial(refill, backend), requests)} | {name: beside[name] for name in arguments.ways}
    for way, _ in ways.values():
        way(requests[:2])  # to load and warm up
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, (way, asked) in ways.items():
            part = measured(backend, way, asked)
            found[name].append({key: value * len(requests) / len(asked) for key, value in part.items()})
    ours = found["refill"]
    print(
        f"{arguments.model}, {backend.loaded.model.dtype}, {len(requests)} questions, "
        f"{ours[0]['tokens'] / len(requests):.0f} tokens an answer, {ours[0]['cut']:.0f} cut at {params.max_tokens}",
        flush=True,
    )
    for name, rounds in found.items():
        seconds = median(one["seconds"] for one in rounds)
        rate = median(one["tokens"] / one["seconds"] for one in rounds)
        useful = rounds[0]["tokens"] / rounds[0]["steps"]
        ratios, cpu = (
            sorted(other[key] / own[key] for other, own in zip(rounds, ours, strict=True)) for key in ("seconds", "cpu")
        )
        note = f"  (extrapolated from {len(single)})" if name == "one by one" else ""
        print(
            f"  {name:10} {seconds:7.1f} s {rate:7.1f} tokens/s  useful {useful:.2f}  "
            f"{median(ratios):5.2f} x ours ({ratios[0]:.2f} to {ratios[-1]:.2f}, n={len(ratios)}), "
            f"in CPU time {median(cpu):5.2f} x ({cpu[0]:.2f} to {cpu[-1]:.2f}){note}",
            flush=True,
        )
    if backend.loaded.model.device.type == "cuda":
        rate = median(one["tokens"] / one["seconds"] for one in ours)
        print(machine.verdict(f"{rate:,.0f} tokens/s", rate >= ON_GPU, f"{ON_GPU:,}"))
    backend.loaded.model.float()
    asked = requests[:: max(1, len(requests) // arguments.same)][: arguments.same]
    pairs = zip(refill(backend, asked), static(backend, 1, asked), strict=True)
    same = sum(one.text == other.text for one, other in pairs)
    print(f"  in fp32, {same} of {len(asked)} texts are the same as one by one")


if __name__ == "__main__":
    main()
