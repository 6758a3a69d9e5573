"""Text of others in Markdown: as it is, and never as markup.

    >>> code("a`b")
    '`` a`b ``'
    >>> print(plain("<b> *x*"))
    \\<b\\> \\*x\\*

What hides or reorders text is spelled out as on the page, and what is very long is cut, which the text then says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cotdistill.reports.showing import visible

MOST_INLINE = 300  # characters
MOST_BLOCK = 4000


def code(value: object) -> str:
    """One line, as code."""
    text = _cut(visible(str(value)).replace("\n", " ").replace("\t", " "), MOST_INLINE) or " "
    ticks = "`" * (_longest_run(text) + 1)
    # A space on either side: it is taken away again, and a text may begin with a tick.
    return f"{ticks} {text} {ticks}" if "`" in text or text.strip() != text else f"{ticks}{text}{ticks}"


def plain(value: object) -> str:
    """A part of a line of prose, with every mark of Markdown and HTML as itself, and no link made of an address."""
    text = _cut(" ".join(visible(str(value)).split()), MOST_BLOCK)
    return re.sub(r"([\\`*_\[\]<>&|~$#@!]|:(?=//)|(?<=www)\.)", r"\\\1", text)


def block(text: str, language: str = "text") -> str:
    """Several lines, word for word."""
    shown = _cut(visible(text), MOST_BLOCK)
    fence = "`" * max(3, _longest_run(shown) + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def yaml_block(values: Mapping[str, Any]) -> str:
    """Settings, as they stand in a config."""
    return block(yaml.safe_dump(dict(values), sort_keys=False).strip(), "yaml")


def front_matter(values: Mapping[str, Any]) -> str:
    """What Hugging Face reads of a card."""
    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False)}---\n"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table; the cells are Markdown already, and hold no bar."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ... ({len(text) - most:,} more characters)"
