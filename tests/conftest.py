"""What several test modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import Server, start_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server on loopback that answers every request."""
    with start_server() as running:
        yield running
