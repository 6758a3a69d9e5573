"""Files under a folder or a URL: put whole or not at all, listed, brought here, removed, by fsspec.

    files = Files("s3://bucket/prefix")     # or a local path, gs://, memory://
    files.put("00012/name", data)           # durable when it returns

On an object store a put is atomic. On a local disk a file is written beside its place, synced and moved in.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from cotdistill.errors import ConfigError, CotdistillError, DataError, missing_extra
from cotdistill.records import atomic, write_atomic

SECRET = re.compile(r"secret|token|password|key", re.IGNORECASE)
EXTRAS = {"fsspec": "parquet", "s3fs": "s3"}
# By itself s3fs gives up a server that does not answer after two seconds; so, after about a minute.
PATIENT = {"connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard", "max_attempts": 8}}
DEFAULTS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": PATIENT}, "s3a": {"config_kwargs": PATIENT}}
LEFT_SECONDS = 3600  # a file that was written beside its place, and is so old, is of a writer that was killed


class Files:
    """The files under `url`, with fsspec's `options` for it besides those of the environment.

    Raises `ConfigError` for a URL that no installed package serves, `DataError` where the place cannot be used.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.options = dict(options or {})
        self.url = url.rstrip("/") or "/"
        self.shown = self.hidden(self.url)
        if "::" in url:
            raise ConfigError(f"{self.shown}: a chain of file systems (`::`) cannot be written safely. Name one.")

    def hidden(self, text: str) -> str:
        """A text without the secrets of a URL or of the options."""
        text = without_secrets(text)
        for name, value in self.options.items():
            if SECRET.search(name) and isinstance(value, str) and len(value) > 1:
                text = text.replace(value, "***")
        return text

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole, over one that is there."""
        with self.named(name):
            if self.local is None:
                self.system.pipe_file(self.path(name), data)
            else:
                write_atomic(self.local / name, data)
                sync(self.local / name)

    def put_file(self, name: str, source: Path) -> None:
        """The same of a local file, which may be larger than memory."""
        with self.named(name):
            if self.local is None:
                self.system.put_file(str(source), self.path(name))
                if (size := self.system.info(self.path(name))["size"]) != source.stat().st_size:
                    raise OSError(f"{size} of {source.stat().st_size} bytes are there")
            else:
                with source.open("rb") as whole, atomic(self.local / name) as file:
                    shutil.copyfileobj(whole, file, 2**20)
                sync(self.local / name)

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
                target.unlink(missing_ok=True)
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

    def remove(self, folder: str, names: Collection[str]) -> None:
        """Remove files of a folder, and what killed writers left there; one that is gone already is as good."""
        paths = [self.path(f"{folder}/{name}") for name in names]
        with self.named(folder):
            if self.system.async_impl:  # many in one request
                with suppress(FileNotFoundError):
                    self.system.rm(paths) if paths else None
                return
            for path in paths:
                with suppress(FileNotFoundError):
                    self.system.rm_file(path)
            for left in (self.local / folder).glob(".*.*") if self.local else ():
                with suppress(FileNotFoundError):
                    if left.stat().st_mtime < time.time() - LEFT_SECONDS:
                        left.unlink()

    def path(self, name: str) -> str:
        """As the file system names it."""
        return f"{self._place[1]}/{name}" if name else self._place[1]

    @property
    def system(self) -> Any:
        return self._place[0]

    @property
    def local(self) -> Path | None:
        """The folder, if it is on a disk of this machine."""
        return Path(self._place[1]) if "file" in self.system.protocol else None

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system, and the root on it."""
        try:
            from fsspec.config import conf
            from fsspec.core import url_to_fs

            protocol = self.url.split("://")[0]
            system, root = url_to_fs(
                self.url, **{**DEFAULTS.get(protocol, {}), **conf.get(protocol, {}), **self.options}
            )
            return system, root.rstrip("/") or root
        except ImportError as error:
            for package, extra in EXTRAS.items():
                if package in str(error):
                    raise missing_extra(package, extra) from None
            raise ConfigError(f"{self.shown}: {error}") from None  # fsspec names the package
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(f"{self.shown}: cannot be used ({self.hidden(str(error))}).") from None

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        """What a file system says, as a `DataError` that names the file."""
        try:
            yield
        except CotdistillError:
            raise
        except Exception as error:  # each file system has its own, not all of them an OSError
            why = self.hidden(f"{type(error).__name__}: {error}").split("\n")[0]
            raise DataError(
                f"{self.shown}/{name}: cannot be used ({why}).\n"
                "Check the URL, the network, the rights and the room. What is stored stays, and a rerun goes on."
            ) from error


def without_secrets(text: str) -> str:
    """A text without the user and password, and the query, of URLs in it."""
    return re.sub(r"(://)(?:[^/@\s]*@)?([^\s?]*)(?:\?\S*)?", r"\1\2", text)


def sync(path: Path) -> None:
    """Put the entry of a file that was moved in on the disk, and that of its folder: without, a crash may lose it."""
    for folder in (path.parent, path.parent.parent):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
