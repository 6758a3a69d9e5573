"""A student's folder at a hub, which is a real server on loopback that speaks its API."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cotdistill import cli
from cotdistill.errors import BackendError, ConfigError, DataError
from cotdistill.exports.hub import Target, send
from exporting import number, trained
from fake_hub import Hub, start_hub
from tiny import tiny_family

# huggingface_hub 2.4 sends a file by LFS as its HTTP library no longer wants it.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
TOKEN = "hf_made_up_for_this_test"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the fake one speaks LFS
    with start_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "fine_tune_cot-0"
    (place / "sub").mkdir(parents=True)
    (place / "README.md").write_text("---\nlicense: unknown\n---\n# Card\n")
    (place / "model.safetensors").write_bytes(bytes(range(256)) * 200)
    (place / "sub/code.py").write_text("pass\n")
    (tmp_path / "secret.txt").write_text("not to be sent")
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow  # huggingface_hub takes its time to be imported
def test_just_the_list_is_sent_and_it_is_private(hub: Hub, folder: Path) -> None:
    lines = send(folder, Target("me/student"))
    assert hub.private is True
    assert hub.files == contents(folder)
    for name, data in hub.files.items():
        assert f"{len(data):>14,}  {hashlib.sha256(data).hexdigest()}  {name}" in lines
    assert f"sent to me/student (private) at {hub.address}" in lines
    assert lines[-1] == f"{hub.address}/me/student"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert send(folder, Target("me/student"))[-1] == lines[-1]  # a second time, to the same


@pytest.mark.slow
def test_a_dry_run_sends_nothing(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    lines = send(folder, Target("me/student", dry_run=True))
    assert lines[-1] == f"dry run, nothing was sent. To: me/student (private) at {hub.address}"
    assert [line.split("  ")[-1] for line in lines[:3]] == ["README.md", "model.safetensors", "sub/code.py"]
    assert hub.requests == []
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        send(folder, Target("me/student"))
    assert hub.requests == []


@pytest.mark.slow
def test_what_is_public_is_said_to_be(hub: Hub, folder: Path) -> None:
    hub.private = False
    with pytest.raises(ConfigError, match=r"it is public\. Nothing was sent"):
        send(folder, Target("me/student"))
    assert hub.files == hub.objects == {}
    send(folder, Target("me/student", public=True))
    assert hub.files == contents(folder)


@pytest.mark.slow
def test_what_the_hub_refuses_or_loses(hub: Hub, folder: Path) -> None:
    hub.lose = "sub/code.py"
    with pytest.raises(DataError, match=r"sub/code\.py is not at the hub"):
        send(folder, Target("me/student"))
    hub.refuse = True
    with pytest.raises(BackendError, match="did not take it") as refused:
        send(folder, Target("me/student"))
    assert TOKEN not in str(refused.value)


@pytest.mark.slow
def test_a_hub_that_is_not_there(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BackendError, match="did not take it"):
        send(folder, Target("me/student"))


@pytest.mark.slow
def test_the_command(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_family("llama", tmp_path / "base")
    folder = trained(tmp_path, number, base, 30, more={"evaluate.methods": ["fine_tune", "fine_tune_cot"]})

    def export(*words: str) -> tuple[int, str]:
        codes: list[int] = []
        out = str(tmp_path / "out")
        capsys.readouterr()
        cli.main(["export", str(folder), "--to", "hub", "--out", out, *words], leave=codes.append)
        printed = capsys.readouterr()
        return codes[0], printed.out + printed.err

    code, said = export()
    assert (code, "Add --student, one of fine_tune-0, fine_tune_cot-0" in said) == (2, True)
    one = ("--student", "fine_tune_cot-0")
    for words, message in (
        (("--push", "x"), "is no repository"),
        (("--push", "../../x"), "is no repository"),
        (("--public",), "--public needs --push"),
    ):
        code, said = export(*one, *words)
        assert (code, message in said) == (2, True)
    code, said = export(*one)
    assert code == 0
    assert "dry run, nothing was sent. To: nowhere: name it, --push OWNER/NAME" in said
    assert hub.requests == []
    code, said = export(*one, "--push", "me/student")
    assert code == 0
    listed = set(re.findall(r"^ *[\d,]+  [0-9a-f]{64}  (.+)$", said, re.MULTILINE))
    assert hub.files == contents(tmp_path / "out/fine_tune_cot-0")
    assert listed == set(hub.files) > {"README.md", "model.safetensors", "tokenizer.json", "generation_config.json"}
    assert TOKEN not in said
