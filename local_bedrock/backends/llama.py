"""The backend of the bundled model: every call in turn, on one thread that owns the model.

Callers are served first come, first served; one that leaves while it waits frees its place, one that leaves while it is
served ends the model's work at the next token (or the next batch of its prompt).
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from local_bedrock.answers import Answer, Pacing, limit_answer
from local_bedrock.backends.choosing import Choose
from local_bedrock.backends.decide import decide
from local_bedrock.backends.extract import extract
from local_bedrock.backends.prose import shorten
from local_bedrock.backends.smollm import Abandoned, SmolLM, find_weights
from local_bedrock.calls import ModelCall

MAX_CHOICES = 8  # the model is asked of one call; beyond, the best-ranked candidate is taken

# An answer is decided as a whole; it is sent in pieces all the same, so that a client sees a stream as from any other model.
_PACING = Pacing(chunk_s=0.02, chunk_chars=24)
_LINE_CHARS = 160
_SYSTEM = "You answer questions about a codebase from the lines given."


class LlamaBackend:
    """Made by `load`. `prompt_tokens` bounds what the model reads of a call, whatever the caller sent."""

    def __init__(self, model: SmolLM, owner: ThreadPoolExecutor, prompt_tokens: int) -> None:
        self._model = model
        self._owner = owner
        self._prompt_tokens = prompt_tokens
        self._counting = ThreadPoolExecutor(1, "bedrock-tokenizer")

    @classmethod
    async def load(cls, prompt_tokens: int) -> LlamaBackend:
        """Load the model, on the thread that will own it. Raises ModelFilesMissing."""
        owner = ThreadPoolExecutor(1, "bedrock-model")
        try:
            weights = find_weights()
            model = await asyncio.get_running_loop().run_in_executor(owner, SmolLM, weights)
        except BaseException:
            owner.shutdown(wait=False, cancel_futures=True)
            raise
        return cls(model, owner, prompt_tokens)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        count = self._model.tokenizer.count
        return await asyncio.get_running_loop().run_in_executor(self._counting, lambda: [count(text) for text in texts])

    async def answer(self, call: ModelCall) -> Answer:
        abandoned = threading.Event()
        work = functools.partial(self._answer, call, abandoned.is_set)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._owner, work)
        finally:
            abandoned.set()

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._owner, self._model.close)
        self._owner.shutdown()
        self._counting.shutdown()

    def _answer(self, call: ModelCall, is_abandoned: Callable[[], bool]) -> Answer:
        material = extract(call)
        chooser_for = functools.partial(self._chooser, is_abandoned, material.question)
        blocks = decide(call, material, chooser_for, self._model.tokenizer.count)
        answer = limit_answer(blocks, self._model.tokenizer, call.max_tokens, call.stop_sequences)
        return replace(answer, pacing=_PACING)

    def _chooser(self, is_abandoned: Callable[[], bool], question: str, lines: Sequence[str]) -> Choose:
        prompt = self._prompt(question, lines)
        chosen: dict[tuple[str, ...], str] = {}

        def choose(label: str, candidates: Sequence[str]) -> str:
            if is_abandoned():
                raise Abandoned
            distinct = list(dict.fromkeys(candidates))
            asked = (label, *distinct)
            if len(distinct) == 1 or (asked not in chosen and len(chosen) == MAX_CHOICES):
                return distinct[0]
            if asked not in chosen:
                chosen[asked] = self._model.choose(prompt + label, distinct, is_abandoned)
            return chosen[asked]

        return choose

    def _prompt(self, question: str, lines: Sequence[str]) -> str:
        """The chat prompt up to the model's turn, with as many of the lines as its size allows."""
        count = self._model.tokenizer.count
        question = self._model.tokenizer.cut(_plain(question), self._prompt_tokens // 3)
        left = self._prompt_tokens - count(_SYSTEM) - count(question)
        kept = []
        for line in (shorten(_plain(line), _LINE_CHARS) for line in lines):
            left -= count(line) + 3
            if left < 0:
                break
            kept.append(f"- {line}")
        listed = "\n".join(kept)
        return (
            f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n{listed}\n\nQuestion: {question}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )


def _plain(text: str) -> str:
    """Text that cannot end its turn: the chat markers are taken apart."""
    return text.replace("<|", "< |")
