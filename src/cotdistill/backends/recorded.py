"""A recorded teacher: a store with nothing behind it. What is not in it cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from cotdistill.errors import BackendError, ConfigError
from cotdistill.store import Completion, Request, SamplingParams, Store, canonical, identity_text


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

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> Generator[tuple[int, Completion], None, None]:
        """Raises `BackendError` at the first request that was not recorded."""
        if not requests:
            return
        model, params_text = identity_text(self.identity), canonical(asdict(params))
        keys = [request.key(model, params_text) for request in requests]
        with Store(self.path, read_only=True) as store:
            found = store.read(keys)
            if missing := [key for key in keys if key not in found]:
                raise self._not_recorded(store, len(missing), len(keys), params)
        for position, key in enumerate(keys):
            yield position, found[key]

    def _not_recorded(self, store: Store, missing: int, asked: int, params: SamplingParams) -> BackendError:
        recorded = [json.loads(text) for text in store.params(self.identity)]
        wanted = asdict(params) | {"stop": list(params.stop)}
        # The first and the second prompt are asked differently: compare with the nearest of those recorded.
        differences = ({key: p.get(key) for key in wanted if p.get(key) != wanted[key]} for p in recorded)
        nearest = min(differences, key=len, default={})
        others = [f"{key}={wanted[key]} (recorded: {value})" for key, value in nearest.items()]
        why = "; ".join(others) or "other questions, or more samples, than were recorded"
        return BackendError(
            f"{missing} of {asked} completions are not in {self.path.name}: {why}.\n"
            "A recorded teacher cannot be asked anew: change the config back, or set teacher.backend to a live one."
        )
