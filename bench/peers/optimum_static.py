"""A static batch of optimum's ``ORTModelForCausalLM``: FOLDER of its export. In an interpreter that has optimum-onnx."""

from __future__ import annotations

import os
import sys

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer
from turns import Messages, serve

(folder,) = sys.argv[1:]
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
model = ORTModelForCausalLM.from_pretrained(folder, session_options=options)


def generate(conversations: list[Messages], tokens: int) -> None:
    """Generate greedily."""
    texts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in conversations]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    model.generate(**batch, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)


serve(generate)
