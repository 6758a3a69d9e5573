"""A config as it is written: YAML, `section.field=value`, and the secrets that neither may hold."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import yaml

from cotdistill.errors import ConfigError

MAX_CONFIG_BYTES = 50_000  # a whole one is 3,000; PyYAML reads 100,000 a second
MAX_SHOWN = 100  # characters of a value or a key that are shown


class _Loader(yaml.SafeLoader):
    """Plain YAML: a repeated key is an error, and so is an alias, with which 1 kB can become a gigabyte."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """None that is written in 5,000 hexadecimal digits: Python cannot even show it."""
    value = int(loader.construct_yaml_int(node))
    if abs(value) >= 2**63:
        raise yaml.constructor.ConstructorError(None, None, "a number of more than 63 bits", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ConfigError` that names file and line."""
    if path.suffix in (".jsonl", ".csv", ".tsv"):
        raise ConfigError(f"{path}: a config was expected. `cotdistill init {path}` writes one for this file.")
    try:
        if (path / "config.yaml").is_file():
            raise ConfigError(f"{path}: the folder of a run. Its config is {path / 'config.yaml'}.")
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)  # a pipe or a device has no size to look at
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: over {MAX_CONFIG_BYTES:,} bytes; this is not a config.")
        values = yaml.load(data.decode("utf-8-sig"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. `cotdistill init` writes a config to start from.") from None
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, a month 13, 10,000 brackets
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__}: {error}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: sections such as `task:` were expected, not {type(values).__name__}.")
    return values


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`section.field=value` as it stands on a command line; a value is YAML."""
    overrides = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{shown(word)}: expected section.field=value, such as student.epochs=2.")
        try:
            overrides[key] = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError):  # the value may be a secret: it is not shown
            raise ConfigError(f"{shown(key)}: the value is not valid YAML. It may need quotes.") from None
    return overrides


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, field = key.split(".")
    place: Any = values
    for section in sections:
        if isinstance(place, list) and section.isdecimal() and int(section) < len(place):  # teachers.0.model
            place = place[int(section)]
        elif isinstance(place, dict):
            if place.get(section) is None:  # such as student.lora in a saved config
                place[section] = {}
            place = place[section]
        if not isinstance(place, dict | list):
            raise ConfigError(f"{shown(key)}: {shown(section)} is not a section.")
    if not isinstance(place, dict):
        raise ConfigError(f"{shown(key)}: {shown(sections[-1])} is not a section.")
    place[field] = value


def fill_secrets(values: dict[str, Any]) -> None:
    """The environment variables that api keys name, in their places."""
    several = values.get("teachers")
    for section in [values.get("teacher"), values.get("judge"), *(several if isinstance(several, list) else [])]:
        if isinstance(section, dict) and section.get("api_key"):
            whose = "judge" if section is values.get("judge") else "teacher"
            section["api_key"] = _secret(str(section["api_key"]), whose)
        if isinstance(section, dict) and "@" in str(section.get("base_url", "")):
            _take_credentials(section)


def _take_credentials(section: dict[str, Any]) -> None:
    """`user:password@` of an address is a secret like a key, sent as RFC 7617 has it: it goes where that is kept."""
    try:
        address = urlsplit(str(section["base_url"]))
        credentials, at, host = address.netloc.rpartition("@")
    except ValueError:
        return  # the backend says what is wrong with it
    if at and not section.get("api_key"):
        section["api_key"] = f"Basic {base64.b64encode(unquote(credentials).encode()).decode()}"
        section["base_url"] = urlunsplit(address._replace(netloc=host))


def _secret(text: str, whose: str) -> str:
    match = re.fullmatch(r"\$\{(\w+)\}", text)
    if match is None:
        raise ConfigError(
            f"{whose}.api_key: a key does not belong in a file or on a command line.\n"
            "Put it into an environment variable and write: api_key: ${OPENAI_API_KEY}"
        )
    if match[1] not in os.environ:
        raise ConfigError(
            f"{whose}.api_key: the environment variable {match[1]} is not set.\nRun: export {match[1]}=..."
        )
    return os.environ[match[1]]


def shown(text: str, most: int = MAX_SHOWN) -> str:
    """On one line, and not long."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else text[:most] + "..."
