"""What of a text that is being written can go to its client: no half a character, nothing that may become a stop.

Text is always decoded whole, as tokens do not stand for the same characters in every place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cotdistill.completions import Completion
from cotdistill.serving.rows import LiveRow

UNFINISHED = "\ufffd"  # what the bytes of half a character are decoded to
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte, in vocabularies of SentencePiece


@dataclass(frozen=True)
class Token:
    """A token of a text: the characters that it settles there, its bytes where they are known, and its likeliest."""

    text: str
    start: int
    logprob: float
    bytes: list[int] | None
    top: list[tuple[str, float, list[int] | None]]


@dataclass(frozen=True)
class Piece:
    """The next part of a choice of a reply; the last has the whole `completion`."""

    index: int
    text: str
    tokens: list[Token]
    completion: Completion | None = None


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """As backends/transformers.py has it."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def next_piece(row: LiveRow, tokenizer: Any, completion: Completion | None = None) -> Piece:
    """What a row has that its client has not; all of it where it ended with `completion`. Call it at each token."""
    text = decode(tokenizer, row.tokens)
    settled = _settled(tokenizer, row.tokens, text)
    row.ends.append(max(len(settled), row.ends[-1] if row.ends else 0))
    if completion:
        row.ends[-1] = len(text)
        upto = len(completion.text)
        count = sum(start < upto for start in _starts(row))
    else:
        upto = max(row.sent, settled_length(settled, row.params.stop))
        count = sum(end <= upto for end in row.ends)
    tokens = _tokens(row, text[:upto] if completion else text, count, tokenizer) if row.top is not None else []
    piece = Piece(row.index, text[row.sent : upto], tokens, completion)
    row.sent, row.shown = upto, max(row.shown, count)
    return piece


def _settled(tokenizer: Any, tokens: Sequence[int], text: str) -> str:
    """The part of `text` that the next tokens leave as it is, whatever they are."""
    whole = len(tokens)
    while whole and BYTE.fullmatch(_raw(tokenizer, tokens[whole - 1])):
        whole -= 1  # a run of bytes is decoded as one: with half a character at its end, none of it is
    return (text if whole == len(tokens) else decode(tokenizer, tokens[:whole])).rstrip(UNFINISHED)


def settled_length(text: str, stops: Sequence[str]) -> int:
    """How many characters of `text` stay whatever follows: its end may be the beginning of a stop string."""
    longest = max(map(len, stops), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(stop.startswith(text[start:]) for stop in stops):
            return start
    return len(text)


def _starts(row: LiveRow) -> list[int]:
    return [0, *row.ends[:-1]]


def _tokens(row: LiveRow, text: str, count: int, tokenizer: Any) -> list[Token]:
    starts = _starts(row)
    found = []
    for i in range(row.shown, count):
        seen, written = row.seen[i], text[starts[i] : row.ends[i]]
        top = [(_spelled(tokenizer, token), logprob, _bytes(tokenizer, token)) for token, logprob in seen.top]
        found.append(Token(written, starts[i], seen.logprob, _bytes(tokenizer, seen.token), top))
    return found


def _raw(tokenizer: Any, token: int) -> str:
    """As it stands in the vocabulary."""
    return str(tokenizer.convert_ids_to_tokens(token))


def _spelled(tokenizer: Any, token: int) -> str:
    """A token by itself, with the space that it begins with."""
    raw = _raw(tokenizer, token)
    return raw.replace("\u2581", " ") if "\u2581" in raw else str(tokenizer.decode([token]))


def _bytes(tokenizer: Any, token: int) -> list[int] | None:
    """The bytes that a token stands for, also where they are a part of a character; None where they are not known."""
    raw = _raw(tokenizer, token)
    if match := BYTE.fullmatch(raw):
        return [int(match[1], 16)]
    text = _spelled(tokenizer, token)
    if UNFINISHED not in text:
        return list(text.encode())
    known = _byte_characters()
    return [known[c] for c in raw] if all(c in known for c in raw) else None


@cache
def _byte_characters() -> dict[str, int]:
    """The character that byte-level vocabularies write for each byte: printable ones as they are, the others moved."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(moved)}
