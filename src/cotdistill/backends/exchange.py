"""HTTP with one server: a request's bytes there, status, headers and bytes back."""

from __future__ import annotations

import errno
import os
import random
import resource
import urllib.request
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from cotdistill.backends.pace import MOST_AT_ONCE
from cotdistill.backends.wire import MAX_REPLY_BYTES, Transient, authorization, clean, host_of, is_loopback
from cotdistill.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from cotdistill.backends.openai import OpenAIBackend

CONNECT_SECONDS = 10.0
FIRST_TRIES = 3  # for a server that has never answered
BACKOFF_SECONDS, BACKOFF_CAP = 0.5, 30.0
SPARE_FILES = 16  # for the store, and for the run's files
TLS_ADVICE = (
    "Check that teacher.base_url is right to say https. For a certificate of your own authority, set SSL_CERT_FILE "
    "to its file."
)


def free_files() -> int:
    """How many connections the limit of open files leaves."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MOST_AT_ONCE
    return max(1, limit - len(os.listdir("/dev/fd")) - SPARE_FILES)  # noqa: PTH208 - names are enough


def open_session(
    base_url: str, api_key: str, keep_alive: bool = True, seconds: float | None = None
) -> aiohttp.ClientSession:
    """A session for one server, with the key in its headers; made in a running loop. `seconds` for one request."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        headers["Authorization"] = authorization(api_key)
    # Those of the environment, but never between here and here: a proxy would see the key. Not by
    # aiohttp's trust_env: that also reads ~/.netrc, and puts what it finds there in the key's place.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=not keep_alive),  # Pace limits
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds or CONNECT_SECONDS, CONNECT_SECONDS)),
        proxy=proxy_of(base_url) or None,
    )


def proxy_of(base_url: str) -> str:
    """The environment's proxy for a server, "" for none. Raises `ConfigError` for one that is not spoken to."""
    host, scheme = host_of(base_url), base_url.lower().partition(":")[0]
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return ""
    proxy = urllib.request.getproxies().get(scheme, "")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"  # as curl reads it
    try:
        url = urlsplit(proxy)
        usable = not proxy or (url.scheme in ("http", "https") and url.hostname and " " not in proxy and url.port != 0)
    except ValueError:
        usable = False
    if not usable:  # its words may hold a password
        raise ConfigError(
            f"{scheme.upper()}_PROXY: it is not the address of an HTTP proxy.\n"
            f"Write it like http://proxy.example:3128, or set NO_PROXY={host} to go without."
        )
    return proxy


def backoff(tries: int, least: float) -> float:
    """Seconds to wait after so many tries: `least`, or more.

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return max(least, random.uniform(0, min(BACKOFF_CAP, BACKOFF_SECONDS * 2 ** min(tries, 10))))


def no_server(address: str, failure: Transient) -> BackendError:
    advice = "Start it, or set teacher.base_url."
    if proxy := proxy_of(address):
        via, host = urlsplit(proxy).netloc.rpartition("@")[2], host_of(address)
        advice = f"It is asked through the proxy {via} of the environment: check that, or set NO_PROXY={host}."
    return BackendError(f"no server answers at {address} ({failure}).\n{advice}")


def not_trusted(address: str, error: aiohttp.ClientSSLError, api_key: str) -> BackendError:
    return BackendError(f"{address}: {clean(str(error), api_key)}\n{TLS_ADVICE}")


class Exchange:
    """The connections to a backend's endpoint; made in a running loop. `too_many` is called where there are no more."""

    def __init__(self, backend: OpenAIBackend, too_many: Callable[[], None]) -> None:
        self.endpoint, self.api_key = backend.endpoint, backend.api_key
        self.too_many = too_many
        self.reached = False  # any reply has come
        self.http = open_session(self.endpoint, self.api_key)

    async def close(self) -> None:
        await self.http.close()

    async def post(self, content: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of a reply. Raises `Transient`, and `BackendError` for a wrong certificate."""
        reply = bytearray()
        try:
            async with self.http.post(self.endpoint, data=content, allow_redirects=False) as response:
                async for chunk in response.content.iter_any():
                    reply += chunk
                    if len(reply) > MAX_REPLY_BYTES:
                        raise Transient(f"the reply is over {MAX_REPLY_BYTES >> 20} MB", unknown=True)
                self.reached = True
                return response.status, response.headers, bytes(reply)
        except aiohttp.ClientSSLError as error:
            if self.reached:
                raise Transient(clean(str(error), self.api_key), unreachable=True) from None
            raise not_trusted(self.endpoint, error, self.api_key) from None
        except aiohttp.ClientConnectorError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # our trouble, not the server's
                self.too_many()
                raise Transient(str(error), left=False) from None
            raise Transient(clean(str(error), self.api_key), unreachable=True, left=False) from None
        except aiohttp.ClientConnectionError as error:
            raise Transient(clean(str(error), self.api_key), unreachable=not self.reached, unknown=True) from None
        except aiohttp.ClientError as error:
            raise Transient(f"broken reply: {clean(str(error), self.api_key)}", unknown=True) from None
