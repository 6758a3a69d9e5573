"""A model behind an OpenAI-compatible server, however it is asked: who it is, and what it may spend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cotdistill.backends.wire import checked_key
from cotdistill.budget import Budget, Price
from cotdistill.errors import ConfigError

Api = Literal["chat", "completions"]


class Remote:
    """What live requests and batches have in common: so their completions are the same rows of a store.

    `budget` is what may be spent, `price` what it costs. Raises `ConfigError` for a `base_url` or key that
    cannot work, and `BackendError` for a key that would cross a network in the clear.
    """

    def __init__(
        self, model: str, base_url: str, api_key: str, api: Api, system: str, budget: Budget | None, price: Price | None
    ) -> None:
        if system and api != "chat":
            raise ConfigError("teacher.system: a plain completion has no system message.\nSet teacher.api=chat.")
        self.model = model
        self.system = system
        self.chat = api == "chat"
        self.path = "/chat/completions" if self.chat else "/completions"
        self.endpoint = base_url.rstrip("/") + self.path
        self.api_key = checked_key(api_key, base_url)
        self.budget = budget or Budget()
        self.price = price or Price(0, 0)

    @property
    def identity(self) -> Mapping[str, str]:
        identity = {"model": self.model, "endpoint": self.endpoint}
        return {**identity, "system": self.system} if self.system else identity
