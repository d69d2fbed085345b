"""Tokenizers with the vocabularies of models, if the extra ``tokenizer`` is installed.

The vocabularies come with the package; nothing is fetched. Loading one takes a fifth of a second
and about 20 MB, so it is loaded once, when the first model needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache

from batchrun.core.estimate import vocabulary
from batchrun.core.estimate.vocabulary import STANDARD, Count

REMEDY = 'pip install "batchrun-llm[tokenizer]"'


class Tokenizers:
    """Chooses how the texts of a model are counted: by a tokenizer if it is ``installed``."""

    def __init__(self) -> None:
        self._load = _loader()
        self._counts: dict[str | None, Count] = {}

    @property
    def installed(self) -> bool:
        """Whether a tokenizer is installed."""
        return self._load is not None

    def count(self, model: str) -> Count:
        """The function that counts the tokens of a text for this model."""
        own = vocabulary.of_model(model)
        if own not in self._counts:
            self._counts[own] = self._made(own)
        return self._counts[own]

    def _made(self, own: str | None) -> Count:
        if self._load is None:
            return vocabulary.by_bytes(own)
        return vocabulary.by_tokenizer(self._load(own or STANDARD), own=own is not None)


def _loader() -> Callable[[str], Callable[[str], Sequence[int]]] | None:
    try:
        importlib.import_module("splintr")
    except ImportError:
        return None
    return _tokenizer


@cache
def _tokenizer(vocabulary_name: str) -> Callable[[str], Sequence[int]]:
    from splintr import Tokenizer

    encode: Callable[[str], Sequence[int]] = Tokenizer.from_pretrained(
        vocabulary_name
    ).encode_ordinary
    return encode
