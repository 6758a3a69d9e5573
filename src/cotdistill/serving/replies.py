"""What is sent back: OpenAI's JSON for whole replies and for the chunks of a stream, of both APIs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from cotdistill.completions import Completion
from cotdistill.serving.asking import Asked
from cotdistill.serving.pieces import Piece, Token


class Shape:
    """The replies to one request: one id and one time for all its chunks."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.id = f"{'chatcmpl' if asked.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.begun: set[int] = set()  # choices that have a chunk

    def whole(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """The reply, from the pieces of each choice."""
        choices, completions = [], []
        for index, parts in enumerate(pieces):
            if (completion := parts[-1].completion) is None:
                raise ValueError(f"choice {index} has no end")
            completions.append(completion)
            tokens = [token for part in parts for token in part.tokens]
            text: dict[str, Any] = {"text": completion.text}
            if self.asked.chat:
                text = {"message": {"role": "assistant", "content": completion.text, "refusal": None}}
            choices.append(
                {
                    "index": index,
                    **text,
                    "logprobs": self._logprobs(tokens),
                    "finish_reason": completion.finish_reason,
                }
            )
        kind = "chat.completion" if self.asked.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage(completions)}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The chunk of a stream that holds a piece."""
        text: dict[str, Any] = {"text": piece.text}
        if self.asked.chat:
            delta = {"content": piece.text} if piece.text or not piece.completion else {}
            text = {"delta": delta if piece.index in self.begun else {"role": "assistant", "content": piece.text}}
        self.begun.add(piece.index)
        choice = {
            "index": piece.index,
            **text,
            "logprobs": self._logprobs(piece.tokens),
            "finish_reason": piece.completion.finish_reason if piece.completion else None,
        }
        usage = {"usage": None} if self.asked.include_usage else {}
        return {**self._head(self._chunk_kind), "choices": [choice], **usage}

    def last(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The chunk with the usage of them all, for clients that asked for it."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": self.usage(completions)}

    def usage(self, completions: Sequence[Completion]) -> dict[str, int]:
        prompt = sum(map(len, self.asked.prompts))  # once, however many completions it has
        written = sum(completion.completion_tokens for completion in completions)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.asked.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.model}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.asked.top is None:
            return None
        if self.asked.chat:
            return {"content": [_chat_token(token) for token in tokens], "refusal": None}
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_by_text(token) for token in tokens] if self.asked.top else None,
            "text_offset": [token.start for token in tokens],
        }


def _chat_token(token: Token) -> dict[str, Any]:
    top = [{"token": text, "logprob": logprob, "bytes": octets} for text, logprob, octets in token.top]
    return {"token": token.text, "logprob": token.logprob, "bytes": token.bytes, "top_logprobs": top}


def _by_text(token: Token) -> dict[str, float]:
    """Of several that are spelled alike, such as halves of characters, the likeliest."""
    found: dict[str, float] = {}
    for text, logprob, _ in token.top:
        found.setdefault(text, logprob)
    return found
