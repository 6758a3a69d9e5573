"""What `training.py` measures, one function a way to train: ours, and each peer as its documentation uses it.

    python benchmarks/trainers.py ours MODEL_FOLDER --pairs pairs.jsonl --examples 400 --batch 8

Run by the interpreter of the way's own environment, so it imports little before it knows which way. One pass over
the first examples is timed, the last of `--passes`; loading and tokenising are not in it. The last line of stdout is
the measurement, as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import machine

Pairs = list[dict[str, str]]
Clocked = Callable[[Any], Any]  # a trainer in, the same out: its steps are timed

RATE = 2e-4


class Clock:
    """Seconds, CPU seconds and the most memory of the last of a training's `passes`."""

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self.found: dict[str, float] = {}

    def start(self) -> None:
        if self.on_gpu:
            import_module("torch").cuda.synchronize()
            import_module("torch").cuda.reset_peak_memory_stats()
        else:
            machine.reset_peak()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        torch = import_module("torch")
        if self.on_gpu:
            torch.cuda.synchronize()
        self.found = {
            "wall": time.perf_counter() - self.wall,
            "cpu": time.process_time() - self.cpu,
            "megabytes": torch.cuda.max_memory_allocated() / 1e6 if self.on_gpu else machine.resident(peak=True),
        }

    @property
    def on_gpu(self) -> bool:
        return bool(import_module("torch").cuda.is_available())

    def of(self, trainer: Any) -> Any:
        """A transformers `Trainer` that tells this clock when it begins and ends."""
        clock = self

        class Callback(import_module("transformers").TrainerCallback):  # type: ignore[misc]  # untyped
            def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if round(state.epoch) == args.num_train_epochs - 1:
                    clock.start()

            def on_train_end(self, *_: Any, **__: Any) -> None:
                clock.stop()

        trainer.add_callback(Callback())
        return trainer


# --- Ours -----------------------------------------------------------------------------------------------------


def ours(model: Path, pairs: Pairs, batch: int, folder: Path, clock: Clock, **settings: Any) -> list[float]:
    """What `train` trains with."""
    from cotdistill.config import StudentConfig
    from cotdistill.models import load_for_training
    from cotdistill.records import Pair
    from cotdistill.students.examples import make_example
    from cotdistill.students.trainer import make_trainer

    values = {"model": str(model), "epochs": clock.passes, "batch_size": batch, "learning_rate": RATE, **settings}
    student = load_for_training(str(model))
    examples = [make_example(student, Pair(str(i), 0, p["prompt"], p["completion"])) for i, p in enumerate(pairs)]
    trainer = make_trainer(student, examples, [], StudentConfig.model_validate(values), 0, folder)
    clock.of(trainer).train()
    return losses(trainer)


def loop(model: Path, pairs: Pairs, batch: int, folder: Path, clock: Clock) -> list[float]:
    """The same batches and loss in a loop of PyTorch alone: what transformers' `Trainer` costs."""
    import torch

    from cotdistill.config import StudentConfig
    from cotdistill.models import has_bf16, load_for_training
    from cotdistill.records import Pair
    from cotdistill.students.examples import make_example
    from cotdistill.students.trainer import make_trainer

    student = load_for_training(str(model))
    examples = [make_example(student, Pair(str(i), 0, p["prompt"], p["completion"])) for i, p in enumerate(pairs)]
    config = StudentConfig(model=str(model), epochs=1, batch_size=batch, learning_rate=RATE)
    trainer = make_trainer(student, examples, [], config, 0, folder)  # for its batches and its loss
    batches = trainer.get_train_dataloader()
    total, device = clock.passes * len(batches), student.model.device
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    warm = math.ceil(0.1 * total)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (total - step) / max(1, total - warm)))
    )
    found = []
    student.model.train()
    for number, inputs in enumerate(itertools.chain.from_iterable(itertools.repeat(batches, clock.passes))):
        if number == total - len(batches):
            clock.start()
        moved = {k: v.to(device) if hasattr(v, "to") else v for k, v in inputs.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16()):
            loss = trainer.compute_loss(student.model, moved)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        found.append(loss.item())
    clock.stop()
    return found


# --- Peers ----------------------------------------------------------------------------------------------------


def trl(model: Path, pairs: Pairs, batch: int, folder: Path, clock: Clock, **settings: Any) -> list[float]:
    """`SFTTrainer` with its defaults, but for what was to be the same: pairs, batch, passes, rate."""
    datasets, module = import_module("datasets"), import_module("trl")
    config = module.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        num_train_epochs=clock.passes,
        learning_rate=RATE,
        report_to=[],
        save_strategy="no",
        use_cpu=not clock.on_gpu,  # without, its bf16 is refused on a CPU
        **settings,
    )
    rows = datasets.Dataset.from_list([{key: pair[key] for key in ("prompt", "completion")} for pair in pairs])
    trainer = module.SFTTrainer(str(model), args=config, train_dataset=rows)
    clock.of(trainer).train()
    return losses(trainer)


def losses(trainer: Any) -> list[float]:
    """As logged, every ten steps; of a shorter training, their mean."""
    logged = trainer.state.log_history
    return [log["loss"] for log in logged if "loss" in log] or [log["train_loss"] for log in logged[-1:]]


WAYS: dict[str, tuple[Callable[..., list[float]], dict[str, Any]]] = {
    "ours": (ours, {}),
    "ours_compiled": (ours, {"compile": True}),
    "ours_packed": (ours, {"packing": True}),
    "loop": (loop, {}),
    "trl": (trl, {}),
    "trl_grouped": (trl, {"train_sampling_strategy": "group_by_length"}),
    "trl_kept": (trl, {"gradient_checkpointing": False}),
    "trl_grouped_kept": (trl, {"train_sampling_strategy": "group_by_length", "gradient_checkpointing": False}),
    "trl_packed": (trl, {"packing": True, "use_liger_kernel": True, "gradient_checkpointing": False}),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--passes", type=int, default=1)
    arguments = parser.parse_args(argv)
    way, settings = WAYS[arguments.way]
    if way is not trl:
        from cotdistill.models import import_training

        import_training()
    pairs = [json.loads(line) for line in arguments.pairs.read_text().splitlines()][: arguments.examples]
    clock = Clock(arguments.passes)
    with tempfile.TemporaryDirectory() as folder:
        found = way(arguments.model, pairs, arguments.batch, Path(folder), clock, **settings)
    rate = {"matrix_rate": machine.matrix_rate(8192 if clock.on_gpu else 2048)} if way is ours else {}
    packages = ("torch", "transformers", *(("trl",) if way is trl else ()))
    versions = {name: metadata.version(name) for name in packages}
    print()  # a trainer may have left its line open
    print(json.dumps({**clock.found, **rate, "on_gpu": clock.on_gpu, "loss": found[-1], "versions": versions}))


if __name__ == "__main__":
    main()
