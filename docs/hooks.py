"""What the site has that no page in docs/ holds: the README as its start, and a reference made from the code.

mkdocs calls the functions that begin with `on_`. Links that lead out of docs/ get a copy of their file in the site.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from cotdistill.cli import app
from cotdistill.config import Config

ROOT = Path(__file__).parents[1]
WIDTH = 100  # of a help text, in characters
FROM_ROOT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")  # a link from docs/ to another place of the repository

# The Python interface: a module, and what of it is shown.
PYTHON: dict[str, list[tuple[str, list[str]]]] = {
    "The whole flow": [("pipeline", ["run"]), ("config", ["load_config", "load_quickstart"]), ("runs", ["Run"])],
    "Verb by verb": [
        ("tasks", ["load_task"]),
        ("backends", ["Backend", "open_backend"]),
        ("generate", ["generate"]),
        ("curate", ["curate", "Curated"]),
        ("students.train", ["train"]),
        ("evaluate", ["score", "evaluate", "score_file"]),
        ("verify", ["verify"]),
    ],
    "Records": [("records", ["Question", "Generation", "Score", "Pair", "Result", "read_jsonl", "write_jsonl"])],
    "Errors": [("errors", [])],
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that the nav does not name stand at the end of the guides."""
    named = set(_pages(config.nav))
    guides: list[Any] = next(entry["Guides"] for entry in config.nav or [] if "Guides" in entry)
    guides += [page.name for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = {name: from_root((ROOT / source).read_text()) for name, source in FROM_ROOT.items()}
    made |= {"reference/commands.md": commands(), "reference/config.md": config_tables(), "reference/python.md": api()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    pages = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
    for name in sorted({"LICENSE"}.union(*(OUTSIDE.findall(page) for page in pages))):
        files.append(File.generated(config, f"files/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    return OUTSIDE.sub(r"](files/\1", markdown)


def on_post_page(output: str, **_: object) -> str:
    """The theme's search is a dialog without a name."""
    search = 'data-md-component="search" role="dialog"'
    return output.replace(search, f'{search} aria-label="Search"')


def from_root(text: str) -> str:
    """A page of the repository's root, with links as they are in the site."""
    text = text.replace("](docs/", "](").replace("](LICENSE)", "](files/LICENSE)")
    for name, source in FROM_ROOT.items():
        text = text.replace(f"]({source})", f"]({name})")
    return text


def commands() -> str:
    """Every command's --help."""
    helps = "\n".join(f"## {name}\n\n```text\n{text}\n```\n" for name, text in _helps(get_command(app), "cotdistill"))
    return f"# Commands\n\nWhat `--help` prints.\n\n{helps}"


def _helps(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """A command's name and help, then those of the commands in it. Typer's own copy of click has no public types."""
    context = command.make_context(
        name.split()[-1], [], parent, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
    )
    yield name, command.get_help(context).strip()
    for word, one in getattr(command, "commands", {}).items():
        yield from _helps(one, f"{name} {word}", context)


def config_tables() -> str:
    """One table for each section of the config, from the models that check it."""
    schema = Config.model_json_schema()
    used = re.findall(r"#/\$defs/(\w+)", json.dumps([schema["properties"], schema["$defs"]]))  # in order of use
    sections = {"": schema, **{name: schema["$defs"][name] for name in used}}
    tables = "\n".join(_table(name, section) for name, section in sections.items())
    return (
        f"# Config\n\nA YAML file, or `section.field=value` on the command line; unknown keys are refused.\n\n{tables}"
    )


def _table(name: str, section: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| `{field}` | {kind(of)} | {_default(of)} | {_cell(of.get('description', ''))} |"
        for field, of in section["properties"].items()
    )
    title = name.removesuffix("Config").lower() or "The file"
    return (
        f"## {title}\n\n{section['description']}\n\n"
        f"| key | value | default | what it is |\n| --- | --- | --- | --- |\n{rows}\n"
    )


def kind(of: dict[str, Any]) -> str:
    """What a value may be, from its JSON schema, in words."""
    if "$ref" in of:
        name = of["$ref"].rpartition("/")[2].removesuffix("Config").lower()
        return f"[{name}](#{name})"
    if "anyOf" in of:
        return " or ".join(kind(one) for one in of["anyOf"] if one.get("type") != "null")
    if "enum" in of:
        return ", ".join(f"`{value}`" for value in of["enum"])
    if of.get("type") == "array":
        return f"list of {kind(of['items'])}"
    if isinstance(values := of.get("additionalProperties"), dict):
        return f"{kind(values)} by name"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {of[bound]:g}" for bound, sign in signs.items() if bound in of]
    of_type = of.get("type", "any")
    return ", ".join([of.get("format", "text") if of_type == "string" else of_type, *bounds])


def _default(of: dict[str, Any]) -> str:
    value = of.get("default", "needed")
    if value is None or value in ("", [], ()):
        return "none"
    return "its own" if isinstance(value, dict) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def api() -> str:
    """The Python interface, from the docstrings."""
    parts = ["# Python\n\nThe commands are these functions.\n"]
    for heading, modules in PYTHON.items():
        parts.append(f"## {heading}\n")
        for module, members in modules:
            names = [f"cotdistill.{module}.{member}" for member in members] or [f"cotdistill.{module}"]
            parts += [f"::: {name}\n" for name in names]
    return "\n".join(parts)


def _pages(nav: Any) -> Iterator[str]:
    """The files that a nav names, however deep."""
    if isinstance(nav, str):
        yield nav
        return
    entries: Iterable[Any] = nav.values() if isinstance(nav, dict) else nav or []
    for entry in entries:
        yield from _pages(entry)
