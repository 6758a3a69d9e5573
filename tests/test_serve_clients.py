"""A served student with the clients that people have: the openai package, and our own `generate` and whole runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cotdistill.backends.openai import OpenAIBackend
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.config import LimitsConfig, load_config, load_quickstart
from cotdistill.errors import BackendError, ConfigError
from cotdistill.generate import generate
from cotdistill.methods import student_teacher, teacher_method
from cotdistill.pipeline import run
from cotdistill.records import Generation, Question, read_jsonl
from cotdistill.runs import Setup
from cotdistill.serving.asking import Limits
from cotdistill.store import Store
from cotdistill.tasks import load_task
from serve_runs import MAX_TOKENS, QUESTION, Served, make_run, serving
from tiny import tiny_model, tiny_t5

if TYPE_CHECKING:
    from openai import OpenAI

QUESTIONS = [Question(str(i), f"What is {i} plus {i}?", str(2 * i)) for i in range(12)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(make_run(tmp_path_factory.mktemp("runs")), key="sk-test") as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    import openai

    with openai.OpenAI(base_url=served.address, api_key="sk-test", max_retries=0) as client:
        yield client


@pytest.mark.slow  # the package takes seconds to import
class TestOpenAI:
    def test_chat(self, served: Served, client: OpenAI) -> None:
        messages: Any = [{"role": "user", "content": QUESTION}]
        create: Any = client.chat.completions.create
        name = client.models.list().data[0].id
        reply = create(model=name, messages=messages, n=3, stop=["e"], logprobs=True, top_logprobs=4)
        expected = served.direct(served.student.method.prompt(Question("", QUESTION, "")), stop=(" END", "e"))
        assert [choice.message.content for choice in reply.choices] == [expected.text] * 3
        assert reply.usage.completion_tokens == 3 * expected.completion_tokens
        assert "".join(token.token for token in reply.choices[0].logprobs.content) == expected.text
        assert reply.model == name
        chunks = create(model=name, messages=messages, stop=["e"], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text

    def test_completions(self, served: Served, client: OpenAI) -> None:
        create: Any = client.completions.create
        name = served.student.pinned
        reply = create(model=name, prompt=["x", "y"], max_tokens=9, logprobs=2, temperature=1, seed=3, top_p=0.9)
        again = create(model=name, prompt=["x", "y"], max_tokens=9, temperature=1, seed=3, top_p=0.9)
        assert [c.text for c in reply.choices] == [c.text for c in again.choices]
        assert reply.choices[0].logprobs
        assert "".join(reply.choices[0].logprobs.tokens or ()) == reply.choices[0].text
        chunks = create(model=name, prompt="x", max_tokens=9, stream=True, stream_options={"include_usage": True})
        texts = [(chunk.choices[0].text if chunk.choices else "", chunk.usage) for chunk in chunks]
        assert "".join(text for text, _ in texts) == served.direct("x", max_tokens=9).text
        assert [usage.completion_tokens for _, usage in texts if usage] == [9]

    def test_the_documents_example(self, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
        text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
        code = text.split("```python\n")[1].split("```")[0].replace("quickstart/", "mine/")
        code = code.replace("http://127.0.0.1:8000/v1", served.address).replace('"none"', '"sk-test"')
        exec(code, {})  # noqa: S102
        question = code.split('"content": "')[1].split('"')[0]
        prompt = served.student.method.prompt(Question("", question, ""))
        assert capsys.readouterr().out == served.direct(prompt).text + "\n"

    def test_errors(self, served: Served, client: OpenAI) -> None:
        import openai

        create: Any = client.completions.create
        with pytest.raises(openai.NotFoundError, match="Did you mean"):
            create(model="mine/fine_tune_cot-7", prompt="x")
        with pytest.raises(openai.BadRequestError, match="room for 80"):
            create(model="", prompt="x", n=81)
        with pytest.raises(openai.BadRequestError, match="top_p"):
            create(model="", prompt="x", top_p=0)
        wrong = openai.OpenAI(base_url=served.address, api_key="sk-wrong", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()

    def test_a_time_limit_in_a_stream_is_an_error(self, tmp_path: Path) -> None:
        import openai

        with serving(make_run(tmp_path), Limits(seconds=1), slow=0.02) as slow:
            client = openai.OpenAI(base_url=slow.address, api_key="none", max_retries=0)
            with client, pytest.raises(openai.APIError, match="not done within 1 seconds"):
                list(client.completions.create(model="", prompt="x", stream=True, max_tokens=900, temperature=1))


def alone(served: Served, questions: list[Question], store: Store) -> list[Generation]:
    """What evaluation writes, without a server."""
    student = served.student
    backend = TransformersBackend(str(student.folder), student.method.chat, loaded=served.loaded)
    return list(generate(questions, backend, student.method, store, max_tokens=MAX_TOKENS))


def texts(generations: list[Generation]) -> list[tuple[str, str, int]]:
    return [(g.text, g.finish_reason, g.completion_tokens) for g in generations]


KINDS = ["paper", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("natural", "chat", "t5"))]


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_generate_gets_evaluations_texts(tmp_path: Path, kind: str) -> None:
    """By chat with the bare question, and by completions with the prompt in the student's form."""
    form = "paper" if kind == "t5" else kind
    chat = kind == "chat"

    def make(folder: Path) -> Path:
        return tiny_t5(folder, std=0.5) if kind == "t5" else tiny_model(folder, positions=2048, chat=chat)

    with serving(make_run(tmp_path, make, form)) as served, Store(tmp_path / "store.sqlite") as store:
        method = served.student.method
        # A chat that says nothing is an error to our client, and tried again.
        questions = [q for q, g in zip(QUESTIONS, alone(served, QUESTIONS, store), strict=True) if g.text][:8]
        expected = texts(alone(served, questions, store))
        assert len({text for text, *_ in expected}) > 4
        limits = LimitsConfig(concurrency=8)
        teacher = OpenAIBackend(served.student.pinned, served.address, limits=limits)
        asked = student_teacher(method)
        assert texts(list(generate(questions, teacher, asked, store, max_tokens=MAX_TOKENS))) == expected
        if not chat:
            plain = OpenAIBackend(served.student.name, served.address, api="completions", limits=limits)
            assert texts(list(generate(questions, plain, method, store, max_tokens=MAX_TOKENS))) == expected
        many = list(generate(questions[:2], teacher, asked, store, n=4, temperature=1.0, max_tokens=9))
        assert len({g.text for g in many}) == 8


@pytest.mark.slow
def test_more_clients_than_places_are_all_answered(tmp_path: Path) -> None:
    """The queue is full again and again: our client goes slower, and loses nothing."""
    with serving(make_run(tmp_path), Limits(slots=2, queue=1)) as small, Store(tmp_path / "store.sqlite") as store:
        expected = texts(alone(small, QUESTIONS[:6], store))
        teacher = OpenAIBackend(small.student.pinned, small.address, limits=LimitsConfig(concurrency=4))
        asked = student_teacher(small.student.method)
        assert texts(list(generate(QUESTIONS[:6], teacher, asked, store, max_tokens=MAX_TOKENS))) == expected
        assert small.metric('cotdistill_requests_total{path="/v1/chat/completions",status="429"}') >= 1


def test_a_teacher_that_asks_twice_is_told_so(tmp_path: Path) -> None:
    with serving(make_run(tmp_path)) as served, Store(tmp_path / "store.sqlite") as store:
        teacher = OpenAIBackend(served.student.name, served.address)
        found = list(generate(QUESTIONS[:1], teacher, teacher_method("zero_shot_cot"), store))
        assert found[0].finish_reason == "error"
        assert "teacher.style=student" in found[0].error


def test_the_style_is_for_a_student_that_is_served_and_thinks_first(tmp_path: Path) -> None:
    for more, says in (
        ({"teacher.backend": "transformers"}, "cotdistill serve"),
        ({"teacher.api": "completions"}, "teacher.api=chat"),
        ({"student.rationale": "answer_first"}, "no rationale"),
    ):
        config = load_quickstart(
            {"teacher.style": "student", "teacher.backend": "openai", "teacher.model": "m", **more}
        )
        with pytest.raises(ConfigError, match=says):
            _ = Setup(config, load_task(config.task)).teacher_method


def taught_by_heart(folder: Path) -> Path:
    """A run of which the student knows six sums."""
    data = folder / "sums.jsonl"
    sums = [
        {"question": f"What is {a}+1?", "answer": f"{a + 1}", "rationale": f"{a} and 1 is {a + 1}."} for a in range(8)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in sums))
    (folder / "one.yaml").write_text(
        f"""
name: one
runs: {folder}
task: {{data: {data}, test_data: {data}, overlap: keep, rationale: rationale, answer_type: number}}
teacher: {{style: human}}
curate: {{leaked: keep}}
student: {{model: "{tiny_model(folder / "base")}", steps: 60, learning_rate: 5.0e-3, batch_size: 8, schedule: constant,
  max_length: 0, dev_fraction: 0.0, select: last}}
evaluate: {{methods: [fine_tune_cot], max_tokens: 60}}
"""
    )
    run(load_config(folder / "one.yaml"))
    return folder / "one"


@pytest.mark.slow
def test_a_served_student_is_the_teacher_of_the_next_run(tmp_path: Path) -> None:
    first = taught_by_heart(tmp_path)
    predictions = read_jsonl(first / "predictions" / "fine_tune_cot-0.jsonl", Generation)
    with serving(first) as served:
        style = f"{{style: student, backend: openai, model: {served.student.pinned}, base_url: '{served.address}', "
        text = (tmp_path / "one.yaml").read_text().replace("name: one", "name: two")
        text = text.replace("{style: human}", style + "samples: 1, temperature: 0, max_tokens: 60}")
        (tmp_path / "two.yaml").write_text(text)
        two = run(load_config(tmp_path / "two.yaml"), "curate")
    assert [g.text for g in two.generations] == [g.text for g in predictions]
    right = [json.loads(line) for line in (two.folder / "pairs.jsonl").read_text().splitlines()]
    assert len(right) >= 4
    assert all(pair["completion"].count("-->") == 1 for pair in right)  # its answer is no part of a rationale


def test_a_dead_name_stops_a_run_at_once(served: Served, tmp_path: Path) -> None:
    """A student that was trained again has another pin: what the old one wrote is not taken for its own."""
    with Store(tmp_path / "store.sqlite") as store:
        teacher = OpenAIBackend("mine/fine_tune_cot-0@0123456789ab", served.address, "sk-test")
        with pytest.raises(BackendError, match=r"404.*no model"):
            list(generate(QUESTIONS, teacher, student_teacher(served.student.method), store))
