"""Published files: each fetched once over HTTPS, checked, and kept in the cache folder.

    path = raw_file(Raw("SVAMP/SVAMP.json", "https://.../SVAMP.json", "5be77703..."))

`COTDISTILL_MIRROR` names a folder, or a base URL, to take them from instead, by the same relative
paths. Wherever a file comes from, its SHA-256 must be the one that our numbers were made with.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cotdistill.errors import BackendError, DataError
from cotdistill.models import cache_folder, sha256
from cotdistill.progress import say
from cotdistill.records import write_atomic

MIRROR = "COTDISTILL_MIRROR"
MOST_BYTES = 200_000_000  # the largest, AQuA's training file, has 48 million
SECONDS = 600  # for one file, all in
SILENCE = 30  # seconds without a byte


@dataclass(frozen=True)
class Raw:
    """One published file: its path in the cache and in a mirror, where it is published, its SHA-256."""

    path: str
    url: str
    sha256: str


def raw_file(raw: Raw) -> Path:
    """Where `raw` lies on this machine, checked; downloaded on first use.

    Raises `DataError` for a file that is not in the mirror's folder or has another content, and
    `BackendError` when it cannot be downloaded.
    """
    mirror = os.environ.get(MIRROR, "")
    folder = mirror_folder(mirror)
    if folder is not None:
        path = folder / raw.path
        if not path.is_file():
            raise DataError(
                f"{path}: no such file in {MIRROR}.\n"
                f"Put {raw.url} there (sha256 {raw.sha256}), or unset {MIRROR} to have it downloaded."
            )
    else:
        path = cache_folder() / "raw" / raw.path
        if not path.is_file():
            url = f"{mirror.rstrip('/')}/{raw.path}" if mirror else raw.url
            say(f"task: fetching {url}, once")
            data = download(url, raw.path)
            refuse_other_content(raw, hashlib.sha256(data).hexdigest(), url, "It was not kept. Try another mirror")
            write_atomic(path, data)
    refuse_other_content(raw, sha256(path), str(path), "Delete it to have it fetched again, or get it")
    return path


def mirror_folder(mirror: str) -> Path | None:
    """The folder that a mirror is, `None` for a server or no mirror."""
    if not mirror or mirror.startswith(("http://", "https://")):
        return None
    if mirror.startswith("file:"):
        return Path(urllib.request.url2pathname(urlsplit(mirror).path))
    return Path(mirror).expanduser()


def refuse_other_content(raw: Raw, found: str, place: str, hint: str) -> None:
    if found != raw.sha256:
        raise DataError(
            f"{place}: another content than the published file's: its sha256 is {found},\n"
            f"and that of {raw.path} is {raw.sha256}.\n{hint} from {raw.url}."
        )


def download(url: str, path: str) -> bytes:
    """The bytes at an http or https URL, in bounded time and size."""
    deadline = time.monotonic() + SECONDS
    data = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=SILENCE) as response:  # noqa: S310 - raw_file gives http(s) only
            while part := response.read1(1 << 20):
                data += part
                if len(data) > MOST_BYTES:
                    raise BackendError(f"{url}: over {MOST_BYTES:,} bytes; this is not {path}.")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not whole after {SECONDS} seconds")
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not a URL at all
        raise BackendError(
            f"{url}: could not be downloaded: {error}.\n"
            f"Check the network and the proxy settings, or set {MIRROR} to a folder that holds {path}."
        ) from None
    return bytes(data)
