"""Files under a folder or a URL: put whole or not at all, listed, read, removed, by fsspec.

    files = Files("s3://bucket/prefix")     # or a local path, gs://, memory://
    files.put("00012/part", data)           # durable when it returns

On an object store a put is atomic. On a local disk a file is written beside its place, synced and moved in.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from cotdistill.errors import ConfigError, CotdistillError, DataError, missing_extra
from cotdistill.records import write_atomic

SECRET = re.compile(r"secret|token|password|key", re.IGNORECASE)
PIECE = 2**20  # bytes read at once
# A server that is gone is named within a minute: by itself s3fs tries five times five times.
DEFAULTS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard"}}}
}
EXTRAS = {"fsspec": "parquet", "s3fs": "s3"}


class Files:
    """The files under `url`, with fsspec's `options` for it besides those of the environment.

    Raises `ConfigError` for a URL that no installed package serves, `DataError` where the place cannot be used.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        if "::" in url:
            raise ConfigError(f"{self.hidden(url)}: a chain of file systems (`::`) cannot be written safely; name one.")
        self.url = url.rstrip("/") or "/"
        self.options = dict(options or {})

    @property
    def shown(self) -> str:
        """The URL as a message may say it."""
        return self.hidden(self.url)

    def hidden(self, text: str) -> str:
        """A text without the secrets of a URL or of the options."""
        text = re.sub(r"(?<=//)[^/@\s]*@|\?\S*", "", text)
        for name, value in getattr(self, "options", {}).items():
            if SECRET.search(name) and isinstance(value, str) and value:
                text = text.replace(value, "***")
        return text

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole, over one that is there."""
        with self.named(name):
            if self.local is not None:
                path = self.local / name
                new = not path.parent.exists()
                write_atomic(path, data)
                sync(path.parent)
                if new:
                    sync(path.parent.parent)
            else:
                self.system.pipe_file(self.path(name), data)

    def put_file(self, name: str, source: Path) -> None:
        """The same of a local file, which may be larger than memory."""
        with self.named(name):
            if self.local is not None:
                beside = self.local / f"{name}.coming"
                with source.open("rb") as whole, beside.open("wb") as file:
                    while data := whole.read(PIECE):
                        file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(self.local / name)
                sync(beside.parent)
            else:
                self.system.put_file(str(source), self.path(name))
                if self.system.info(self.path(name))["size"] != source.stat().st_size:
                    raise OSError("it is there with another size")

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        with self.named(name):
            try:
                data: bytes = self.system.cat_file(self.path(name))
            except FileNotFoundError:
                return None
            return data

    def get(self, name: str, target: Path) -> str | None:
        """Bring a file to `target`; returns the SHA-256 of what came, None where there is none."""
        with self.named(name):
            try:
                self.system.get_file(self.path(name), str(target))
            except FileNotFoundError:
                return None
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def names(self, folder: str = "") -> dict[str, int]:
        """The names in a folder, files and folders, with their sizes in bytes; none where there is no such folder."""
        with self.named(folder):
            path = self.path(folder)
            self.system.invalidate_cache(path)  # others write here
            try:
                found = self.system.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["size"] or 0 for entry in found}

    def remove(self, names: Collection[str]) -> None:
        """Remove files; one that is gone already is as good."""
        with self.named(""):
            if self.system.async_impl and names:  # many in one request
                with suppress(FileNotFoundError):
                    self.system.rm([self.path(name) for name in names])
                return
            for name in names:
                with suppress(FileNotFoundError):
                    self.system.rm_file(self.path(name))

    def path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @cached_property
    def local(self) -> Path | None:
        """The folder on a disk of this machine, if it is one."""
        return Path(self._root) if "file" in protocols(self.system) else None

    @cached_property
    def _root(self) -> str:
        self.system  # noqa: B018 - it names what is wrong with the URL
        from fsspec.core import url_to_fs

        root: str = url_to_fs(self.url, **self._all_options)[1]
        return root.rstrip("/")

    @property
    def _all_options(self) -> dict[str, Any]:
        protocol = self.url.split("://")[0] if "://" in self.url else "file"
        return DEFAULTS.get("s3" if protocol == "s3a" else protocol, {}) | self.options

    @cached_property
    def system(self) -> Any:
        try:
            from fsspec.core import url_to_fs

            return url_to_fs(self.url, **self._all_options)[0]
        except ImportError as error:
            package = missing_package(error)
            if package in EXTRAS:
                raise missing_extra(package, EXTRAS[package]) from None
            raise ConfigError(f"{self.shown}: {self.hidden(str(error))}") from None
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(f"{self.shown}: no URL that can be used ({self.hidden(str(error))}).") from None

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        """What a file system says, as a `DataError` that names the file."""
        try:
            yield
        except CotdistillError:
            raise
        except Exception as error:
            why = self.hidden(f"{type(error).__name__}: {error}").split("\n")[0]
            raise DataError(
                f"{self.hidden(self.path(name))}: cannot be used ({why}).\n"
                "Check the URL, the network, the rights and the room; what is stored stays, and a rerun goes on."
            ) from error


def missing_package(error: ImportError) -> str:
    """The package that an import, or fsspec's message about one, says is not there."""
    said = re.search(r"[Ii]nstall (\w+)", str(error))
    return error.name or (said.group(1) if said else "")


def protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def sync(folder: Path) -> None:
    """Put a folder's entries on the disk: a file that was moved in is there after a crash only then."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
