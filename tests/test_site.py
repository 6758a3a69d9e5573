"""The site of the documents: no broken link, every command and key in it, and no request that leaves it."""

from __future__ import annotations

import html
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cotdistill import errors
from cotdistill.cli import app
from cotdistill.config import Config, load_config
from cotdistill.generate import generate
from cotdistill.pipeline import run
from cotdistill.records import Question
from cotdistill.students.train import train
from cotdistill.verify import verify
from test_browser import CHROMIUM, Watched, browser, grave_faults
from test_docs import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="no site (pip install 'cotdistill[docs]')"),
]
__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    return html.unescape(page.read_text())


def test_every_command_is_in_the_reference(site: Path) -> None:
    page = text_of(site / "reference/commands.html")
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert f"Usage: cotdistill {name}" in page, name
        assert (command.help or "").splitlines()[0] in page, name


def test_every_key_is_in_the_reference(site: Path) -> None:
    page = text_of(site / "reference/config.html")
    schema = Config.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, of in section["properties"].items():
            assert f"<code>{key}</code>" in page, key
            assert of.get("description", "").partition("`")[0].partition("<")[0].strip() in page, key


def test_every_document_is_a_page_that_the_start_leads_to(site: Path) -> None:
    start = (site / "index.html").read_text()
    for document in (ROOT / "docs").glob("*.md"):
        assert (site / f"{document.stem}.html").is_file()
        assert f'href="{document.stem}.html"' in start, document.name


@pytest.mark.parametrize(
    "shown", [run, load_config, generate, train, verify, Question, errors], ids=lambda d: d.__name__
)
def test_docstrings_are_in_the_reference(site: Path, shown: Any) -> None:
    assert str(shown.__doc__).partition("`")[0].partition("\n")[0].strip() in text_of(site / "reference/python.html")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)")
@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright (pip install playwright)")
@pytest.mark.parametrize(
    ("page", "scheme"),
    [
        ("index.html", "light"),
        ("tutorial.html", "dark"),
        ("reference/config.html", "light"),
        ("reference/python.html", "dark"),
    ],
)
def test_a_page_asks_nobody_and_has_no_serious_fault(browser: Any, site: Path, page: str, scheme: str) -> None:
    """Opened from the disk, where the search works too."""
    watched = Watched(browser, site / page, color_scheme=scheme, viewport={"width": 1200, "height": 900})
    watched.tab.click(".md-search__input")
    watched.tab.keyboard.type("wilson")
    watched.tab.wait_for_selector(".md-search-result__item")
    watched.tab.goto(watched.url)
    assert grave_faults(watched) == {}
    watched.close()
