"""A static batch of transformers' ``generate``: FOLDER of safetensors, number format."""

from __future__ import annotations

import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from turns import Messages, serve

folder, dtype = sys.argv[1:]
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def generate(conversations: list[Messages], tokens: int) -> None:
    """Generate greedily."""
    texts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in conversations]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        model.generate(**batch, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)


serve(generate)
