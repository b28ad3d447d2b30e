"""How `bench/engines.py` asks a peer that is a library: lines of JSON on standard input, one answer per line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

__all__ = ["serve"]

Messages = list[dict[str, str]]


def serve(generate: Callable[[list[Messages], int], None]) -> None:
    """Say that the model is loaded, then answer each line with the seconds of wall and CPU time that it took.

    Args:
        generate: called with the conversations and the exact number of tokens to generate for each.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        generate(asked["messages"], asked["tokens"])
        print(json.dumps([time.perf_counter() - began_s, time.process_time() - cpu_s]), flush=True)
