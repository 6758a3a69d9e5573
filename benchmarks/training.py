"""How fast a student is trained: ours beside TRL's `SFTTrainer`, on the same pairs, model and machine.

    python benchmarks/training.py --setup                               # makes TRL's environment, then measures
    python benchmarks/training.py --model smollm2-135m-instruct --examples 96 --pairs runs/quickstart/pairs.jsonl

Each way is a process of its own (`trainers.py`), `--batch` examples a step; they take turns, `--rounds` times. A pass
over the same examples is timed. Rates are of real tokens: those of prompts and completions, each with its end, no
padding. Without `--model` it is a random Llama of 4 million parameters with a tokenizer of 4,096 tokens; without
`--pairs` those that the recorded teacher's rationales make, as in `cotdistill run`.

    ours              bf16 autocast over weights in fp32, batches of like length, logits of the completions alone
    ours_compiled, ours_packed    the same with student.compile, or with student.packing; for a GPU
    loop              the same batches and loss without transformers' `Trainer`
    trl               SFTTrainer's defaults: weights as they are stored, gradient checkpointing, batches at random
    trl_grouped       the same, batches grouped by length
    trl_kept, trl_grouped_kept    the same two, without gradient checkpointing
    trl_packed        packed, Liger kernels, without gradient checkpointing; for a GPU

All get OMP_WAIT_POLICY=PASSIVE, which ours sets by itself: the machine may be shared. With --here TRL and Liger are
those of this very Python. Model FLOPs utilisation is what the model's products need (6 a weight and token, those of
the output layer for completions alone, and attention) of what one large product of matrices reaches in that process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from platformdirs import user_cache_path

from environments import Failed, interpreter, measured, set_up
from machine import describe, spread, verdict

PINS = ("torch==2.13.0", "transformers==5.23.0", "trl==1.16.0")
SMALL = {"trl": 2.5, "trl_grouped": 1.5}  # how many times as fast as which way ours is to be
EMBEDDED = {"trl": 1.7}
ON_GPU = {"trl": 3.0, "trl_packed": 1.3}
UTILISATION = 30  # percent, at 135M on a GPU
MOST_MEGABYTES = 4000  # on a CPU
LABELS = {
    "ours": "cotdistill",
    "ours_compiled": "cotdistill, compiled",
    "ours_packed": "cotdistill, packed",
    "loop": "the same batches and loss, no `Trainer`",
    "trl": "TRL, default",
    "trl_grouped": "TRL, grouped by length",
    "trl_kept": "TRL, no gradient checkpointing",
    "trl_grouped_kept": "TRL, grouped, no gradient checkpointing",
    "trl_packed": "TRL, packed, Liger, no gradient checkpointing",
}
CHILD_SECONDS = 1800


def small_model(pairs: Path, folder: Path) -> Path:
    """A random Llama of 4 million parameters and a tokenizer of 4,096 tokens, made from the pairs."""
    from cotdistill.models import import_training

    _, torch, transformers = import_training()
    from tokenizers import ByteLevelBPETokenizer

    texts = ["".join(map(json.loads(line).get, ("prompt", "completion"))) for line in pairs.read_text().splitlines()]
    bytes_pairs = ByteLevelBPETokenizer()
    bytes_pairs.train_from_iterator(texts, vocab_size=4096, special_tokens=["<end>", "<pad>"], show_progress=False)
    special = {"eos_token": "<end>", "pad_token": "<pad>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_pairs._tokenizer, **special)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    print(f"random Llama, {model.num_parameters() / 1e6:.1f}M parameters, {len(tokenizer)} tokens")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recorded_pairs(folder: Path) -> Path:
    """The pairs of `cotdistill run`: nothing is asked or trained for them."""
    from cotdistill.config import load_quickstart
    from cotdistill.pipeline import run

    curated = run(load_quickstart({"runs": str(folder)}), until="curate").curated
    assert curated is not None
    return curated.path


class Work(NamedTuple):
    """Of one pass over the examples: real tokens, each completion with its end, and the model's operations."""

    tokens: int
    flops: float


def work_of(model: Path, pairs: Path, examples: int) -> Work:
    """What both trainers are to do with the first pairs."""
    from cotdistill.models import import_training

    _, _, transformers = import_training()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    config = transformers.AutoConfig.from_pretrained(model)
    output = config.vocab_size * config.hidden_size
    with import_training()[1].device("meta"):
        body = transformers.AutoModelForCausalLM.from_config(config).base_model.num_parameters() - output
    lines = [json.loads(line) for line in pairs.read_text().splitlines()[:examples]]
    lengths = [len(tokenizer(line["prompt"] + line["completion"])["input_ids"]) + 1 for line in lines]
    written = sum(map(int.__sub__, lengths, (len(tokenizer(line["prompt"])["input_ids"]) for line in lines)))
    attention = config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)
    return Work(sum(lengths), 6.0 * (body * sum(lengths) + output * written + attention))


def measure(way: str, python: Path, model: Path, pairs: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One process. Raises `Failed`."""
    command = [str(python), str(Path(__file__).with_name("trainers.py")), way, str(model), f"--pairs={pairs}"]
    kept = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if python != Path(sys.executable):
        kept.pop("PYTHONPATH", None)
    flags = [f"--{name}={getattr(arguments, name)}" for name in ("examples", "batch", "passes")]
    return measured([*command, *flags], kept, CHILD_SECONDS)


def rounds(model: Path, pairs: Path, arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Each way in turn, round by round; one that failed is left out of the rest."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in arguments.ways}
    for number in range(1, arguments.rounds + 1):
        for way in list(found):
            try:
                environment, pins = ("trl", PINS) if way.startswith("trl") and not arguments.here else ("", ())
                one = measure(way, interpreter(environment, pins, arguments.envs), model, pairs, arguments)
            except Failed as reason:
                print(f"{way}: {reason}", file=sys.stderr)
                del found[way]
                continue
            print(f"round {number}: {way} {one['wall']:.1f} s, {one['cpu']:.1f} CPU s", file=sys.stderr, flush=True)
            found[way].append(one)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = user_cache_path("cotdistill") / "benchmarks"
    parser.add_argument("--envs", type=Path, default=cache, help=f"TRL's environment (default {cache})")
    parser.add_argument("--setup", action="store_true", help="make it, if it is missing")
    parser.add_argument("--here", action="store_true", help="TRL is installed beside us")
    parser.add_argument("--model", default="", help="the embedded student's name, or a folder")
    parser.add_argument("--pairs", type=Path, help="JSON lines of prompt and completion")
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8, help="examples a step")
    parser.add_argument("--passes", type=int, default=1, help="over the examples; the last one is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=LABELS, default=["ours", "loop", "trl", "trl_grouped"])
    arguments = parser.parse_args()
    from cotdistill.models import resolve_model

    if arguments.setup:
        set_up("trl", PINS, arguments.envs)
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pairs = arguments.pairs or recorded_pairs(Path(folder))
        model = Path(resolve_model(arguments.model)) if arguments.model else small_model(pairs, Path(folder) / "model")
        work = work_of(model, pairs, arguments.examples)
        found = rounds(model, pairs, arguments)
    print(f"{arguments.model or 'random Llama, 4M'}; {arguments.examples} examples of {work.tokens} tokens in all\n")
    print("| way | tokens/s | tokens a CPU s | peak MB | ours: times as fast | times less CPU | last loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    ratios: dict[str, tuple[list[float], list[float]]] = {}
    for way, all_rounds in found.items():
        ours = found.get("ours", [])
        beside = list(zip(ours, all_rounds, strict=False))
        ratios[way] = [b["wall"] / a["wall"] for a, b in beside], [b["cpu"] / a["cpu"] for a, b in beside]
        cells = [spread([work.tokens / one[key] for one in all_rounds]) for key in ("wall", "cpu")]
        cells.append(spread([one["megabytes"] for one in all_rounds]))
        cells += [spread(values, 2) if way != "ours" else "" for values in ratios[way]]
        print(f"| {' | '.join([LABELS[way], *cells, spread([one['loss'] for one in all_rounds], 2)])} |")
    print()
    best = found.get("ours", [])
    on_gpu = bool(best) and best[0]["on_gpu"]
    for way, goal in (ON_GPU if on_gpu else EMBEDDED if arguments.model else SMALL).items():
        if ratios.get(way, ((), ()))[0]:
            times, less = map(median, ratios[way])
            print(verdict(f"{times:.2f}x {LABELS[way]} ({less:.2f}x by CPU time)", times >= goal, f"{goal}x"))
    for way in ("ours", "ours_compiled", "ours_packed"):
        if rows := found.get(way):
            used = median(100 * work.flops / one["wall"] / one["matrix_rate"] for one in rows)
            rate = median(one["matrix_rate"] for one in rows) / 1e12
            what = f"{LABELS[way]}: {used:.1f}% of the {rate:.3g} TFLOP/s of a large product in bf16"
            print(verdict(what, used >= UTILISATION, f"{UTILISATION}%") if on_gpu else f"- {what}")
    if arguments.model and best and not on_gpu:
        most = max(one["megabytes"] for one in best)
        print(verdict(f"{most:,.0f} MB at the peak", most <= MOST_MEGABYTES, f"{MOST_MEGABYTES:,} MB", "at most"))
    if any(found.values()):
        print("Versions: " + "; ".join(f"{way} {rows[0]['versions']}" for way, rows in found.items() if rows))


if __name__ == "__main__":
    main()
