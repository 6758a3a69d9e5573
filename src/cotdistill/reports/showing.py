"""What is shown of texts that a model wrote, to a browser or a terminal: nothing hidden, nothing endless."""

from __future__ import annotations

import re
from typing import Any

import jinja2
from markupsafe import Markup

# C0 but \t and \n, C1, direction marks and overrides, line separators, BOM, tag characters, and lone
# surrogates, which UTF-8 cannot hold. U+200D stays: emoji and several scripts need it.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
LONG = 8000  # characters: a longer text is shown by its first and last ones
FIRST, LAST = 5000, 2000


def visible(value: Any) -> Any:
    """`value` with characters that hide or reorder text spelled out, as [U+202E]; markup is left alone."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return HIDDEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", value)


def make_environment(loader: jinja2.BaseLoader) -> jinja2.Environment:
    """For templates of pages: every value goes through `visible`, and is then escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=loader,
    )
    environment.filters |= {"visible": visible, "percent": percent}
    return environment


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def shortened(text: str) -> tuple[str, str, str]:
    """First part, a note on what is left out, and last part of a text; note and last are empty where it is not long."""
    if len(text) <= LONG:
        return text, "", ""
    left_out = len(text) - FIRST - LAST
    return text[:FIRST], f"{left_out:,} of {len(text):,} characters are left out here", text[-LAST:]
