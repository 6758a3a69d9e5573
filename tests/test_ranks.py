"""Several processes of one command, as torchrun starts them: two on CPUs, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cotdistill.students.train import trained_facts
from tiny import tiny_model

pytestmark = pytest.mark.slow

# What each process runs. With ELSEWHERE the second has another working folder, so that what it writes lands there;
# with KILL_AT the first dies by SIGKILL after so many steps of the second training; with FSDP accelerate, which has it
# on GPUs alone, takes the CPU for one.
COMMAND = """
import os, signal
import cotdistill.models, cotdistill.students.trainer
from cotdistill.cli import main
cotdistill.models.has_bf16 = cotdistill.students.trainer.has_bf16 = lambda: False
if os.environ.get("ELSEWHERE") and os.environ["RANK"] == "1":
    os.chdir(os.environ["ELSEWHERE"])
if os.environ.get("KILL_AT"):
    step_end = cotdistill.students.trainer.Watch.on_step_end
    def on_step_end(self, args, state, control, **more):
        step_end(self, args, state, control, **more)
        if "cot" in args.output_dir and state.global_step == int(os.environ["KILL_AT"]) and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
    cotdistill.students.trainer.Watch.on_step_end = on_step_end
if os.environ.get("ACCELERATE_USE_FSDP"):
    import torch
    from accelerate.state import DistributedType, PartialState
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
main()
"""
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
STUDENTS = ("fine_tune-0", "fine_tune_cot-0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a config, and the run of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny_model(folder / "tiny", positions=2048)
    (folder / "command.py").write_text(COMMAND)
    done = launch(folder, "one", processes=1)
    assert done.returncode == 0, done.stderr
    return folder


def launch(
    folder: Path, name: str, variables: dict[str, str] | None = None, more: tuple[str, ...] = (), processes: int = 2
) -> Any:
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    words = [
        *("task.name=word_problems", "task.train=20", "task.test=6", "teacher.backend=recorded", "teacher.samples=2"),
        *("teacher.max_tokens=160", f"teacher.stop={json.dumps(STOP)}", "student.model=tiny", "student.epochs=2.5"),
        *("student.batch_size=4", "student.learning_rate=1e-3", "student.dev_fraction=0.2", "evaluate.max_tokens=8"),
        *("evaluate.methods=[fine_tune,fine_tune_cot]", f"name={name}", "student.checkpoint_minutes=1e-9", *more),
    ]
    (folder / "empty.yaml").write_text("{}")
    command = [sys.executable, *(torchrun if processes > 1 else []), "command.py", "run", "empty.yaml", *words]
    kept = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **(variables or {}),
    }
    return subprocess.run(
        command, cwd=folder, env=os.environ | kept, capture_output=True, text=True, check=False, timeout=120
    )


STOP = ["\n\n", "Q:", "A:", "```", "Let's confirm", "Let's verify", "Let's write", "We can verify"]


def weights(folder: Path, name: str) -> list[Any]:
    from safetensors.torch import load_file

    found = [load_file(folder / "runs" / name / "student" / student / "model.safetensors") for student in STUDENTS]
    return [tensor for one in found for _, tensor in sorted(one.items())]


def assert_close(folder: Path, name: str, tolerance: float) -> None:
    for one, other in zip(weights(folder, "one"), weights(folder, name), strict=True):
        assert (one - other).abs().max() <= tolerance
    for student in STUDENTS:
        alone, together = (trained_facts(folder / "runs" / n / "student" / student) for n in ("one", name))
        assert [loss for _, loss in together["dev_losses"]] == pytest.approx(
            [x for _, x in alone["dev_losses"]], abs=1e-4
        )
        assert together["dev_accuracies"] == ([] if "fsdp" in name else alone["dev_accuracies"])
        assert {**together, **dict.fromkeys(CHANGE)} == {**alone, **dict.fromkeys(CHANGE)}


CHANGE = ("dev_losses", "dev_accuracies", "weights", "seconds")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_two_processes_train_the_student_of_one_and_one_writes(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "tiny").symlink_to(folder / "tiny")
    more = ("student.checkpoint_minutes=0",)
    done = launch(folder, "two", {"ELSEWHERE": str(folder / "elsewhere")}, more)
    assert done.returncode == 0, done.stderr
    assert_close(folder, "two", 1e-4)
    assert files(folder / "runs" / "two") == files(folder / "runs" / "one")
    assert not {path.name for path in (folder / "elsewhere").rglob("*") if path.is_file() and "tiny" not in path.parts}
    said = done.stderr.splitlines()
    assert len([line for line in said if "held out" in line]) == len(STUDENTS), "said twice"
    again = launch(folder, "two", more=more)
    assert again.returncode == 0
    assert "steps" not in again.stderr, "trained again"


def test_two_processes_train_adapters_on_4_bit_weights(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    for name, processes in (("four-bit-one", 1), ("four-bit-two", 2)):
        done = launch(folder, name, more=("student.lora={rank: 4, four_bit: true}",), processes=processes)
        assert done.returncode == 0, done.stderr
    for one, other in zip(weights(folder, "four-bit-one"), weights(folder, "four-bit-two"), strict=True):
        assert (one - other).abs().max() <= 1e-4


@pytest.mark.parametrize(("kind", "tolerance"), [("ddp", 0.0), ("fsdp", 0.0)])
def test_killed_both_go_on_as_if_nothing_had_been(folder: Path, kind: str, tolerance: float) -> None:
    variables = FSDP if kind == "fsdp" else {}
    whole = launch(folder, f"{kind}-whole", variables)
    assert whole.returncode == 0, whole.stderr
    assert_close(folder, f"{kind}-whole", 1e-4)
    killed = launch(folder, kind, {**variables, "KILL_AT": "9"})
    assert killed.returncode != 0
    left = folder / "runs" / kind / "student" / "fine_tune_cot-0.unfinished"
    assert {path.name for path in left.glob("checkpoint-*")} == {"checkpoint-7", "checkpoint-8"}
    assert (left / "checkpoint-8" / "pytorch_model_fsdp.bin").exists() == (kind == "fsdp")
    done = launch(folder, kind, variables)
    assert "fine_tune_cot-0: goes on from runs/" in done.stderr, done.stderr
    for one, other in zip(weights(folder, f"{kind}-whole"), weights(folder, kind), strict=True):
        assert (one - other).abs().max() <= tolerance


@pytest.mark.parametrize(
    ("more", "variables", "words"),
    [
        (("student.batch_size=3",), {}, "3 examples a step cannot be shared by 2 processes"),
        (("student.lora.rank=2",), FSDP, "FSDP: it is for full fine-tuning"),
        (("student.learning_rat=3",), {}, "Did you mean 'learning_rate'?"),
    ],
)
def test_a_mistake_ends_all_processes(
    folder: Path, more: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    done = launch(folder, "mistake", variables, more)
    assert done.returncode != 0
    assert words in done.stderr
    assert "cotdistill/cli.py" not in done.stderr, "a traceback"
