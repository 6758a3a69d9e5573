"""What /metrics says, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"cotdistill_{name}", what, labels, registry=self.registry)

        self.requests = counter("requests", "Requests by path and status; 499: the client left.", "path", "status")
        self.completions = counter("completions", "Completions by how they ended.", "finish_reason")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts that were accepted.")
        self.tokens = counter("completion_tokens", "Tokens that were written, for clients that left too.")
        self.seconds = Histogram(
            "cotdistill_request_seconds", "Of a completion request.", buckets=SECONDS, registry=self.registry
        )

    def watch(self, name: str, what: str, count: Callable[[], float]) -> None:
        Gauge(f"cotdistill_{name}", what, registry=self.registry).set_function(count)

    def text(self) -> bytes:
        return generate_latest(self.registry)
