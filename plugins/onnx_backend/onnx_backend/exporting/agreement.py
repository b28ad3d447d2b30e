"""How well an exported graph agrees with the model that it was made of."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from onnx_backend.exporting.progress import ExportError, Progress
from onnx_backend.exporting.source_model import affordable_dtype, parameters_of

__all__ = ["Agreement", "check_decoder", "open_graph"]

_TOKENS = 32
_LEDGER = "\n".join(f"{day}. On day {day} the mill ground {day * 37 % 91} sacks of wheat." for day in range(1, 36))
# The last is of several hundred tokens: positions that an export computes wrongly do no harm at the beginning.
_PROMPTS = (
    "Write a short story about a dragon.",
    "Explain photosynthesis to a child.",
    "List ten uses of copper.",
    "Write a Python function that returns the first n Fibonacci numbers, and explain it.",
    "Who was Ada Lovelace?",
    "Why is the sky blue?",
    "Translate to German and to French: Good morning, I would like two tickets to Berlin.",
    f"{_LEDGER}\n\nContinue this list by ten days.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What was found.

    Attributes:
        share: of the greedy tokens that the graph chose alike.
        tokens: how many there were.
        prompts: after how many prompts.
        first_divergence: tokens until the first that the graph chose differently, the mean.
    """

    share: float
    tokens: int
    prompts: int
    first_divergence: float | None


@dataclass(frozen=True, slots=True)
class _Text:
    prompt: list[int]
    tokens: list[int]


def check_decoder(source: Path, graph: Path, progress: Progress) -> Agreement:
    """Compare greedy tokens of the model in ``source`` with those that ``graph`` chooses after the very same tokens."""
    texts = _source_texts(source, progress)
    session = open_graph(graph)
    head_size = _head_size(graph.parent)
    agreed, firsts = 0, []
    for number, text in enumerate(texts):
        progress.tell("checking", (len(texts) + number) / (2 * len(texts)))
        same = [ours == theirs for ours, theirs in zip(_choices(session, head_size, text), text.tokens, strict=True)]
        agreed += sum(same)
        firsts.append(same.index(False) if False in same else len(same))
    progress.tell("checking", 1.0)
    tokens = sum(len(text.tokens) for text in texts)
    return Agreement(
        share=round(agreed / tokens, 4),
        tokens=tokens,
        prompts=len(texts),
        first_divergence=round(sum(firsts) / len(firsts), 1),
    )


def _source_texts(source: Path, progress: Progress) -> list[_Text]:
    """What the model itself says, the most likely token each time."""
    progress.tell("checking", 0.0)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    dtype = affordable_dtype(parameters_of(source))
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, local_files_only=True, trust_remote_code=False
    ).eval()
    told = model.generation_config.eos_token_id
    ends = {told} if isinstance(told, int) else set(told or ())
    texts = []
    for number, prompt in enumerate(_PROMPTS):
        ids = _encode(tokenizer, prompt)
        texts.append(_Text(ids, _greedy(model, ids, ends)))
        progress.tell("checking", (number + 1) / (2 * len(_PROMPTS)))
    del model
    gc.collect()
    return texts


def _encode(tokenizer: Any, prompt: str) -> list[int]:
    if not tokenizer.chat_template:
        return list(tokenizer(prompt)["input_ids"])
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.inference_mode()
def _greedy(model: Any, prompt: Sequence[int], ends: set[int]) -> list[int]:
    """Not `generate`, which heeds what a model's files say of penalties."""
    tokens: list[int] = []
    past, given = None, list(prompt)
    while len(tokens) < _TOKENS:
        output = model(input_ids=torch.tensor([given]), past_key_values=past, use_cache=True, logits_to_keep=1)
        past = output.past_key_values
        given = [int(output.logits[0, -1].argmax())]
        tokens += given
        if tokens[-1] in ends:
            break
    return tokens


def open_graph(graph: Path) -> onnxruntime.InferenceSession:
    """Open it on the CPU, whatever it is meant for."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _choices(session: onnxruntime.InferenceSession, head_size: int, text: _Text) -> list[int]:
    """What the graph would choose after the prompt and each of the text's tokens."""
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    past_names = [name for name in inputs if name.startswith("past")]
    if unknown := [n for n in inputs if n not in {"input_ids", "attention_mask", "position_ids", *past_names}]:
        msg = f"its graph needs {', '.join(unknown)}, which the onnx backend does not serve"
        raise ExportError(msg)
    outputs = ["logits", *(name.replace("past_key_values", "present") for name in past_names)]
    past = {name: _empty(inputs[name], head_size) for name in past_names}
    choices: list[int] = []
    length = 0
    for given in [text.prompt, *([token] for token in text.tokens[:-1])]:
        feeds = {"input_ids": np.array([given], np.int64)}
        if "position_ids" in inputs:
            feeds["position_ids"] = np.arange(length, length + len(given), dtype=np.int64)[None]
        length += len(given)
        if "attention_mask" in inputs:
            feeds["attention_mask"] = np.ones((1, length), np.int64)
        logits, *present = session.run(outputs, feeds | past)
        past = dict(zip(past_names, present, strict=True))
        choices.append(int(logits[0, -1].argmax()))
    return choices


def _head_size(folder: Path) -> int:
    """What the model builder leaves open in the graph; 0 where it is not the graph's maker."""
    file = folder / "genai_config.json"
    return int(json.loads(file.read_text(encoding="utf-8"))["model"]["decoder"]["head_size"]) if file.exists() else 0


def _empty(tensor: Any, head_size: int) -> np.ndarray[Any, Any]:
    _, heads, _, size = tensor.shape
    kind = np.float16 if tensor.type == "tensor(float16)" else np.float32
    return np.zeros((1, heads, 0, size if isinstance(size, int) else head_size), kind)
