"""Backends: anything that completes prompts, behind one method.

A backend says what model it is (`identity`, a part of every key in the store) and yields each
completion as it ends. Opening one costs nothing: models load and connections open on first use.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from cotdistill.budget import Budget, Price
from cotdistill.completions import Completion, Request
from cotdistill.config import LimitsConfig, TeacherConfig
from cotdistill.errors import ConfigError


class Backend(Protocol):
    """Anything that completes prompts."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What decides the text besides the request: model, revision, endpoint, prompt form."""
        ...

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        """Yield (request, sample, completion) as each one ends, in any order, each sample once.

        `requests` is read as there is room. None from it means that there is nothing now, but may be
        when something has been yielded: a second prompt waits for the first's text. A sample that failed
        for good is a completion of finish reason "error". Raises `BackendError` where no request can
        succeed: a wrong key, a model that is not there, a dead server.
        """
        ...


RECORDED = Path(__file__).parent.parent / "recorded" / "word_problems.sqlite"


def open_backend(
    teacher: TeacherConfig,
    limits: LimitsConfig,
    budget: Budget | None = None,
    price: Price | None = None,
    journal: Path = Path("batches.jsonl"),
) -> Backend:
    """The backend that a teacher section describes, with what it may spend, at its price.

    `journal` is the file in which batches are noted.
    """
    if teacher.backend == "recorded":
        from cotdistill.backends.recorded import RecordedBackend

        return RecordedBackend(teacher.store or RECORDED, teacher.model)
    if not teacher.model:
        raise ConfigError(f"teacher.model is needed with backend {teacher.backend}: the name of the model to ask.")
    if teacher.backend == "transformers":
        from cotdistill.backends.transformers import TransformersBackend

        return TransformersBackend(teacher.model, teacher.api == "chat", teacher.system, teacher.batch_size)
    how = teacher.api_key.get_secret_value(), teacher.api, teacher.system, limits, budget, price
    if teacher.mode == "batch":
        from cotdistill.backends.batch import BatchBackend

        return BatchBackend(teacher.model, teacher.base_url, journal, *how)
    from cotdistill.backends.openai import OpenAIBackend

    return OpenAIBackend(teacher.model, teacher.base_url, *how)
