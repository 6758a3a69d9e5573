"""Training under faults: numbers that are none, too little memory, a model folder that nobody should trust."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cotdistill.config import StudentConfig
from cotdistill.errors import BackendError, ConfigError, DataError
from cotdistill.models import chat_text, folder_when_whole, load_for_training, load_model
from cotdistill.records import Pair
from cotdistill.students.examples import LengthGrouped, make_example
from cotdistill.students.train import train, trained_facts
from disks import MOUNT, small_disk
from tiny import tiny_model

PAIRS = [Pair(f"q{i}", 0, f"{i}+{i}? ###", f" {'so ' * i}{i} plus {i} --> {2 * i} END") for i in range(8)]


def settings(base: Path, **changes: Any) -> StudentConfig:
    values = {"steps": 12, "batch_size": 2, "learning_rate": 1e-2, "dev_fraction": 0.0}
    return StudentConfig.model_validate({"model": str(base), **values, **changes})


@pytest.mark.parametrize(("rate", "minutes"), [(1e30, 0), (3.0, 1e-9)])  # nan at once, and a loss that explodes
def test_f12_a_loss_that_is_of_no_use_names_the_questions_and_leaves_nothing(
    base: Path, tmp_path: Path, rate: float, minutes: float
) -> None:
    config = settings(base, learning_rate=rate, warmup=0, checkpoint_minutes=minutes)
    with pytest.raises(BackendError) as error:
        train(PAIRS, config, tmp_path / "out" / "student", seed=3)
    said = re.match(
        r"the training loss became (\S+) at step (\d+), with the questions (q\d), (q\d)\.\n", str(error.value)
    )
    assert said, error.value
    student = load_for_training(str(base))
    sampler = LengthGrouped([make_example(student, pair).length for pair in PAIRS], 2, 3)
    sampler.epoch, at = divmod(int(said[2]) - 1, 4)
    assert [said[3], said[4]] == [PAIRS[i].question_id for i in list(sampler)[2 * at : 2 * at + 2]]
    assert not list((tmp_path / "out").glob("student"))
    for weights in tmp_path.rglob("*.safetensors"):  # of checkpoints before
        assert_finite(weights)


def assert_finite(weights: Path) -> None:
    from safetensors.torch import load_file

    assert all(bool(tensor.isfinite().all()) for tensor in load_file(weights).values())


def test_f12_weights_that_are_no_numbers_are_never_saved(base: Path, tmp_path: Path) -> None:
    """The last step's damage shows in no loss."""
    with pytest.raises(BackendError, match=r"a weight of the student is no longer a number(?s:.*)learning_rate"):
        train(PAIRS, settings(base, learning_rate=1e39, steps=1, warmup=0), tmp_path / "student", seed=0)
    assert not list(tmp_path.iterdir())


STARVED = """
import json, pathlib, resource, sys
from cotdistill.config import StudentConfig
from cotdistill.models import import_training
from cotdistill.records import Pair
from cotdistill.students.train import train, trained_facts
import_training()
import torch, cotdistill.students.trainer
torch.set_num_threads(1)
cotdistill.students.trainer.has_bf16 = lambda: False  # oneDNN maps code, for which a freed heap leaves no room here
torch.ones(64, 64) @ torch.ones(64, 64)
config = StudentConfig.model_validate(json.loads(sys.argv[1]))
pairs = [Pair(f"q{i}", 0, "?", " so" * 650 + f" {i} END") for i in range(32)]
taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]) * 2**20, resource.RLIM_INFINITY))
folder = train(pairs, config, pathlib.Path(sys.argv[3]), 0)
print(trained_facts(folder)["steps"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_f12_too_little_memory_halves_what_is_computed_at_once(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", positions=2048)

    config = settings(base, steps=2, batch_size=32).model_dump_json()

    def starve(megabytes: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", STARVED, config, str(megabytes), str(tmp_path / f"student-{megabytes}")]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    # How much suffices is the machine's affair; with some amounts not even a thread can start.
    enough = (done for done in map(starve, (500, 700, 400, 600, 450, 550, 650, 350, 800, 300)) if done.returncode == 0)
    done = next(done for done in enough if "memory ran out" in done.stderr)
    assert "warning: memory ran out: from now on 16 examples at once (student.micro_batch_size)." in done.stderr
    assert done.stdout == "2\n"


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [300, 600, 900])
def test_f3_a_full_disk_keeps_the_last_whole_checkpoint(base: Path, tmp_path: Path, kilobytes: int) -> None:
    config = settings(base, checkpoint_minutes=1e-9)
    expected = trained_facts(train(PAIRS, config, tmp_path / "whole", seed=0))
    with small_disk(tmp_path / "disk", f"{kilobytes}k"):
        folder = tmp_path / "disk" / "student"
        with pytest.raises(DataError, match=r"student.unfinished: .*cannot be written(?s:.*)Check the disk"):
            train(PAIRS, config, folder, seed=0)
        assert not folder.exists()
        subprocess.run([MOUNT, "-o", "remount,size=20m", str(tmp_path / "disk")], check=True)
        assert trained_facts(train(PAIRS, config, folder, seed=0))["weights"] == expected["weights"]


def test_f20_pickled_weights_are_not_loaded(base: Path, tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "run",))

    folder = tiny_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Evil()}, folder / "pytorch_model.bin")
    for load in (load_for_training, load_model):
        with pytest.raises(BackendError, match="safetensors"):
            load(str(folder))
    assert not (tmp_path / "run").exists()


def test_f20_a_model_s_own_code_runs_only_when_the_config_says_so(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    mark = tmp_path / "run"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nfrom transformers import LlamaConfig\n"
    (folder / "evil.py").write_text(code + "class Evil(LlamaConfig):\n    model_type = 'evil'\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackendError, match="could not be loaded"):
        train(PAIRS, settings(folder), tmp_path / "student", seed=0)
    assert not mark.exists()
    with pytest.raises(BackendError):  # it is a class for a configuration only
        train(PAIRS, settings(folder, trust_remote_code=True), tmp_path / "student", seed=0)
    assert mark.exists()


def test_f20_a_chat_template_cannot_reach_python(tmp_path: Path) -> None:
    student = load_for_training(str(tiny_model(tmp_path / "model", chat=True)))
    evil = f"{{{{ cycler.__init__.__globals__.os.system('touch {tmp_path / 'run'}') }}}}"
    student.tokenizer.chat_template = evil
    with pytest.raises(BackendError, match="chat template"):
        chat_text(student.tokenizer, ("hello",))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_it_stops_early_when_the_dev_loss_no_longer_falls(base: Path, tmp_path: Path) -> None:
    from cotdistill.students.train import split_dev

    dev = {pair.question_id for pair in split_dev(PAIRS, 0.25, 0)[1]}
    contrary = [Pair(p.question_id, 0, p.prompt, " zebra" if p.question_id in dev else " 1 END") for p in PAIRS]
    facts = {}
    for patience in (0, 1, 2):
        config = settings(base, steps=0, epochs=9, learning_rate=2e-2, dev_fraction=0.25, patience=patience)
        facts[patience] = trained_facts(train(contrary, config, tmp_path / str(patience), seed=0))
    best = facts[0]["selected_epoch"]
    assert best < 6
    assert [len(facts[patience]["dev_losses"]) for patience in facts] == [9, best + 1, best + 2]
    assert {one["selected_epoch"] for one in facts.values()} == {best}
    assert len({json.dumps(one["weights"]) for one in facts.values()}) == 1


@pytest.mark.parametrize(("attention", "words"), [("flsh", "'flsh'"), ("flash_attention_2", "FlashAttention2")])
def test_an_attention_that_is_not_there(base: Path, tmp_path: Path, attention: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"student\.attention: .*{words}"):
        train(PAIRS, settings(base, attention=attention), tmp_path / "student", seed=0)


def test_a_tracker_that_is_not_there(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"student\.report_to: .*nobody"):
        train(PAIRS, settings(base, report_to=["nobody"]), tmp_path / "student", seed=0)


def test_f3_a_full_disk_is_named_where_the_tokenizer_is_saved(tmp_path: Path) -> None:
    """The tokenizers library says it by an error of no kind, which nobody could catch by its name."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left") as caught, folder_when_whole(tmp_path / "student"):
        Tokenizer(BPE()).save("/dev/full")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
