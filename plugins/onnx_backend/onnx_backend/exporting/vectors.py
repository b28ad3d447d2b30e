"""How well an exported encoder's vectors agree with those of the model that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from onnx_backend.exporting.agreement import Agreement, open_graph
from onnx_backend.exporting.progress import ExportError, Progress

__all__ = ["check_encoder"]

_TEXTS = (
    "The cat sits on the mat.",
    "Ein Hund läuft durch den Park.",
    "def add(a, b): return a + b",
    "How do I reset my password?",
    " ".join(f"On day {day} the mill ground {day * 37 % 91} sacks of wheat." for day in range(1, 16)),
)
_QUESTION = "How much wheat was ground?"


@torch.inference_mode()
def check_encoder(source: Path, graph: Path, kind: str, progress: Progress) -> Agreement:
    """Compare the vectors of the model in ``source``, or a cross-encoder's numbers, with those that ``graph`` gives."""
    relevance = kind == "cross_encoder"
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    of = AutoModelForSequenceClassification if relevance else AutoModel
    model = of.from_pretrained(source, dtype=torch.float32, local_files_only=True, trust_remote_code=False).eval()
    session = open_graph(graph)
    wanted = {given.name for given in session.get_inputs()}
    shares = []
    for number, text in enumerate(_TEXTS):
        progress.tell("checking", number / len(_TEXTS))
        encoded = tokenizer(_QUESTION, text, return_tensors="np") if relevance else tokenizer(text, return_tensors="np")
        feeds = {name: np.asarray(value, np.int64) for name, value in encoded.items() if name in wanted}
        if missing := wanted - feeds.keys():
            msg = f"its graph needs {', '.join(sorted(missing))}, which the onnx backend does not serve"
            raise ExportError(msg)
        expected = model(**{name: torch.from_numpy(value) for name, value in feeds.items()})[0].numpy()
        shares.append((_nearness if relevance else _cosine)(np.asarray(session.run(None, feeds)[0]), expected))
    progress.tell("checking", 1.0)
    return Agreement(share=round(min(shares), 4), tokens=len(shares), prompts=len(shares), first_divergence=None)


def _cosine(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Of the tokens' vectors, the mean."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return float(((ours * theirs).sum(-1) / np.maximum(lengths, 1e-12)).mean())


def _nearness(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Of two numbers, 1 when they are equal."""
    apart = np.abs(ours.astype(np.float64) - theirs).max()
    return float(max(0.0, 1 - apart / max(1.0, np.abs(theirs).max())))
