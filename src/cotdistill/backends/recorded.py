"""A recorded teacher: a store with nothing behind it. What is not in it cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from cotdistill.completions import Completion, Pool, Request, SamplingParams
from cotdistill.errors import BackendError, ConfigError
from cotdistill.store import Store


class RecordedBackend:
    """The completions of one model in the store at `path`; `model` says which where there are several.

    Raises `ConfigError` if the store does not hold that model, and `BackendError` that says what
    differs when it was recorded with other questions or parameters.
    """

    def __init__(self, path: Path, model: str = "") -> None:
        self.path = path
        self.model = model

    @cached_property
    def identity(self) -> Mapping[str, str]:
        with Store(self.path, read_only=True) as store:
            models = store.models()
        found = [model for model in models if self.model in ("", model.get("model"))]
        if len(found) != 1:
            names = ", ".join(model.get("model", "?") for model in models) or "none"
            raise ConfigError(
                f"teacher.model={self.model!r} names {len(found)} of the models recorded in {self.path}.\n"
                f"Recorded there: {names}."
            )
        return found[0]

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        """Raises `BackendError` at the first request that was not recorded."""
        with Store(self.path, read_only=True) as store:
            for request in requests:
                if request is None:  # all is answered at once: what it waits for has been yielded
                    continue
                found = store.samples(Pool(self.identity, request.params).key(request.prompt))
                for sample in request.samples:
                    if sample not in found:
                        raise self._not_recorded(store, request.params)
                    yield request, sample, found[sample]

    def _not_recorded(self, store: Store, params: SamplingParams) -> BackendError:
        recorded = [json.loads(text) for text in store.params(self.identity)]
        wanted = asdict(params) | {"stop": list(params.stop)}
        # The first and the second prompt are asked differently: compare with the nearest of those recorded.
        differences = ({key: p.get(key) for key in wanted if p.get(key) != wanted[key]} for p in recorded)
        nearest = min(differences, key=len, default={})
        others = [f"{key}={wanted[key]} (recorded: {value})" for key, value in nearest.items()]
        why = "; ".join(others) or "other questions, or more samples, than were recorded"
        return BackendError(
            f"completions are not in {self.path.name}: {why}.\n"
            "A recorded teacher cannot be asked anew: change the config back, or set teacher.backend to a live one."
        )
