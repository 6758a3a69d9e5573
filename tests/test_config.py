"""The config: strict, its errors of at most three lines, and no secret ever leaves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cotdistill.config import Config, load_config, load_quickstart
from cotdistill.config_file import MAX_CONFIG_BYTES, parse_overrides
from cotdistill.errors import ConfigError

KEY = "sk-canary-0123456789"


def load(folder: Path, text: str | bytes, *overrides: str) -> Config:
    path = folder / "my.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, parse_overrides(overrides))


def refusal(call: Callable[[], object]) -> str:
    """The message of the `ConfigError`, which is short and comes soon."""
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) <= 3, message
    assert len(message) < 1000, message
    assert time.process_time() - start < 1
    return message


def test_defaults_load(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load(tmp_path, "# nothing\n") == load(tmp_path, b"\xef\xbb\xbf") == Config()
    assert load_config(str(tmp_path / "my.yaml")) == Config()  # as the README has it
    assert load_quickstart().name == "quickstart"
    assert Config().folder == Path("runs/quickstart")
    assert Config().store_path == Path("runs/store.sqlite")


def test_overrides_win(tmp_path: Path) -> None:
    text = "student: {epochs: 5, lora: null}\nteacher: {samples: 2}\ntask:\n"
    overrides = ["student.epochs=2", "student.seeds=[1, 2]", "student.lora.rank=4", "task.name=x=y", "store=s.sqlite"]
    config = load(tmp_path, text, *overrides)
    assert config.student.epochs == 2
    assert config.student.seeds == (1, 2)
    assert config.student.lora is not None
    assert config.student.lora.rank == 4
    assert config.teacher.samples == 2
    assert config.task.name == "x=y"
    assert config.store_path == Path("s.sqlite")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("studnt: {epochs: 2}", ["studnt", "'student'"]),
        ("student: {epoch: 2}", ["student.epoch:", "'epochs'"]),
        ("student: {lora: {rnk: 2}}", ["student.lora.rnk", "'rank'"]),
        ("student: {zzzzzz: 2}", ["student.zzzzzz", "learning_rate"]),
        ("student: {epochs: two}", ["student.epochs", "'two'"]),
        ("student: {epochs: -1}", ["student.epochs", "-1"]),
        ("student: {seeds: []}", ["student.seeds"]),
        ("student: {seeds: [0, x]}", ["student.seeds.1", "'x'"]),
        ("student: {learning_rate: .inf}", ["student.learning_rate", "finite"]),
        ("teacher: {temperature: .nan}", ["teacher.temperature", "finite"]),
        ("teacher: {backend: opnai}", ["teacher.backend", "'opnai'", "openai"]),
        ("teacher: 5\nstudent: 5", ["teacher", "5", "and 1 more"]),
        ("name: ../elsewhere", ["name", "'../elsewhere'"]),
        ("name: '.hidden'", ["name"]),
        ('name: "a\\n"', ["name"]),
        ("task: {data: my.csv}", ["task", "answer_type is needed"]),
        ("evaluate: {methods: [fine_tun]}", ["evaluate.methods", "'fine_tune'"]),
        ("5: 1", ["5"]),
        ("- task", ["list"]),
        ("hello", ["str"]),
        ("task: {name: [}", ["line 1", "YAML"]),
        ("task: {}\nname: x\ntask: {}", ["line 3", "'task'", "twice"]),
        ("task: {name: a, name: b}", ["'name'", "twice"]),
        ("a: &x 1\nb: *x", ["line 2", "aliases"]),
        ("name: !!python/object/apply:os.system [exit]", ["line 1", "tag"]),
        ("? [1, 2]\n: 3", ["YAML"]),
        ("name: 2021-13-45", ["month"]),
        ("student: {patience: 2, select: last}", ["student: patience", "dev loss", "select"]),
        ("student: {patience: 2, dev_fraction: 0}", ["student: patience", "dev loss", "dev_fraction"]),
        ("teacher: {samples: " + "9" * 5000 + "}", ["cannot be read"]),
        ('"a\\nb\\nc\\nd\\ne": 1', ["no such key"]),
        ('"' + "k" * 1_000 + '": 1', ["no such key"]),
        ("evaluate: {methods: [" + "x" * 40_000 + "]}", ["no method"]),
        ("task: [" + "1," * 20_000 + "]", ["task"]),
        ('name: "\\ud800"', ["name"]),
        (b"name: a\0b", ["YAML"]),
        (b"name: \xff", ["utf-8"]),
        ("task: " + "[" * 10_000, ["recursion"]),
        ("task: " + "[" * 10_000 + "]" * 10_000, ["recursion"]),
        ("{a: " * 10_000, ["recursion"]),
        ("".join(f"k{i}: 1\n" for i in range(4_000)), ["no such key"]),
        ("#" * (MAX_CONFIG_BYTES + 1), ["50,000 bytes"]),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, (str, bytes)) else "",
)
def test_refused(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    message = refusal(lambda: load(tmp_path, text))
    assert [word for word in ["my.yaml", *words] if word not in message] == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("student.epochs", ["student.epochs", "section.field=value"]),
        ("student.epoch=2", ["student.epoch", "'epochs'"]),
        ("name.x=2", ["name.x", "name is not a section"]),
        ("=2", ["no such key"]),
        ("task.name=[", ["task.name", "YAML"]),
        ("task.name=" + "[" * 10_000, ["task.name"]),
        ("teacher.samples=" + "9" * 5000, ["teacher.samples"]),
        ("teacher.samples=many", ["teacher.samples", "'many'"]),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, str) else "",
)
def test_override_refused(tmp_path: Path, override: str, words: list[str]) -> None:
    message = refusal(lambda: load(tmp_path, "name: x", override))
    assert [word for word in words if word not in message] == []


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell has seen it in a file, or after the = of an argument; else a folder `~` would be made here."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "my.yaml"
    path.write_text("runs: ~/runs\nstudent: {model: ~/tiny}\ntask: {data: ~nobody-here/q.csv, answer_type: text}")
    config = load_config(path)
    assert (config.runs, config.student.model) == (tmp_path / "runs", f"{tmp_path}/tiny")
    assert str(config.task.data) == "~nobody-here/q.csv"  # no such user
    assert load_quickstart({"runs": "~"}).runs == tmp_path


def test_no_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(lambda: load_config(tmp_path / "none.yaml"))
    assert "cannot be read" in refusal(lambda: load_config(tmp_path))
    assert "50,000 bytes" in refusal(lambda: load_config(Path("/dev/zero")))


def test_billion_laughs(tmp_path: Path) -> None:
    laughs = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 10))
    assert "aliases" in refusal(lambda: load(tmp_path, laughs))
    merge = "a: &a {name: x}\n<<: *a"
    assert "aliases" in refusal(lambda: load(tmp_path, merge))


def test_key_comes_from_the_environment_and_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "teacher: {api_key: '${COTDISTILL_TEST_KEY}'}"
    monkeypatch.delenv("COTDISTILL_TEST_KEY", raising=False)
    assert "COTDISTILL_TEST_KEY" in refusal(lambda: load(tmp_path, text))
    monkeypatch.setenv("COTDISTILL_TEST_KEY", KEY)
    config = load(tmp_path, text)
    assert config.teacher.api_key.get_secret_value() == KEY
    shown = [config.to_yaml(), repr(config), str(config), repr(config.teacher), config.model_dump_json()]
    assert [words for words in shown if KEY in words] == []
    # Another mistake in the same section does not show it either.
    assert KEY not in refusal(lambda: load(tmp_path, text, "teacher.samples=many"))


@pytest.mark.parametrize(
    "override",
    [f"teacher.api_key={KEY}", f"teacher.api_key=[{KEY}]", f"teacher.api_key=@{KEY}", f"teacher.apikey={KEY}"],
)
def test_key_in_the_clear_is_refused_and_not_shown(tmp_path: Path, override: str) -> None:
    message = refusal(lambda: load(tmp_path, "", override))
    assert "api" in message
    assert KEY not in message


def test_saved_config_loads_back(tmp_path: Path) -> None:
    for config in (
        Config(),
        load_quickstart(),
        load(
            tmp_path,
            r'teacher: {stop: ["\n\n", "\x85", "\u2028", "\0", "yes", "1", " x ", "\U0001F600"], system: "a: b # c"}'
            "\nstudent: {lora: {rank: 4}, learning_rate: 1.0e-7}\ntask: {data: a b.csv, answer_type: number}",
        ),
    ):
        assert load(tmp_path, config.to_yaml()) == config


def test_credentials_in_an_address_are_a_secret(tmp_path: Path) -> None:
    text = 'teacher: {base_url: "https://me:p%40ss@a.example:8443/v1"}\nteachers: [{model: a}]\n'
    config = load(tmp_path, text)
    assert config.teacher.base_url == config.teachers[0].base_url == "https://a.example:8443/v1"
    assert config.teacher.api_key.get_secret_value() == "Basic bWU6cEBzcw=="  # RFC 7617
    for shown in (config.to_yaml(), repr(config)):
        assert "p@ss" not in shown
        assert "p%40ss" not in shown
        assert "bWU6cEBzcw" not in shown
