"""onnxruntime-genai: FOLDER of its layout, and ``generator`` (a static batch) or ``engine`` (batches continuously)."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import onnxruntime_genai as genai
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from turns import Messages, serve

folder, way = sys.argv[1:]
config = genai.Config(folder)
threads = {"intra_op_num_threads": int(os.environ["OMP_NUM_THREADS"]), "inter_op_num_threads": 1}
config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
model = genai.Model(config)
tokenizer = AutoTokenizer.from_pretrained(folder)
encoder: Tokenizer = tokenizer.backend_tokenizer


def prompts(conversations: list[Messages]) -> list[list[int]]:
    """Return the tokens of each conversation."""
    texts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in conversations]
    return [encoder.encode(text, add_special_tokens=False).ids for text in texts]


def static_batch(conversations: list[Messages], tokens: int) -> None:
    """Generate greedily with `genai.Generator`, the shorter prompts padded on the left."""
    given = prompts(conversations)
    longest = max(map(len, given))
    padded = np.full((len(given), longest), tokenizer.pad_token_id or tokenizer.eos_token_id, np.int32)
    for row, ids in zip(padded, given, strict=True):
        row[longest - len(ids) :] = ids
    params = genai.GeneratorParams(model)
    length = longest + tokens
    params.set_search_options(do_sample=False, batch_size=len(given), max_length=length, min_length=length)
    generator = genai.Generator(model, params)
    generator.append_tokens(padded)
    made = 0
    while not generator.is_done():
        generator.generate_next_token()
        made += 1
    assert made == tokens, made


def continuous_batch(conversations: list[Messages], tokens: int) -> None:
    """Generate greedily with `genai.Engine`."""
    made = 0
    requests = []
    for ids in prompts(conversations):
        request = engine.create_request()
        turn = genai.TurnOptions(request)
        turn.set_do_sample(False)
        turn.set_max_generated_tokens(tokens)
        turn.set_min_generated_tokens(tokens)
        request.begin_turn(np.array(ids, np.int32), turn)
        requests.append(request)
    while engine.has_pending_requests():
        made += sum(1 for event in engine.run(events) if event.token is not None)
    for request in requests:
        request.close()
    assert made == tokens * len(requests), made


if way == "engine":
    engine = genai.Engine(model)
    events = engine.create_event_buffer(256)
serve(continuous_batch if way == "engine" else static_batch)
