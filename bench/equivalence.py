r"""How alike the backends' greedy answers are: the same demo model and prompts, each backend by itself, in pairs.

    python bench/equivalence.py                          the three backends as they are by default, torch in float32,
                                                         and onnx without quantisation
    python bench/equivalence.py --sides llamacpp llamacpp torch-bfloat16 onnx-int4 --prompts 10 --tokens 24

Prints a Markdown table. Every side is a gateway on a free port, with one engine thread, that answers the chats at
temperature 0, four at once; a side named twice is asked twice, by two gateways: what then differs is due to what ran
beside it. Needs the backends; what a side loads is fetched and prepared first, by `python -m core pull`.

Answers are compared as tokens: their texts, read by the model's tokenizer, and the end of the text where the model
chose to end. Two answers are equal until their *first divergence*; after it they continue different texts, and that a
token is the same there means nothing.

*Equal answers*: those without a divergence. *First divergence*: how many equal tokens come before it. *Share of equal
tokens*: the tokens before the first divergence, by those of the longer of the two answers, over all answers together.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from client import Reply, connect, http_request
from overhead import free_port, gateway

from core.testing import demo_weights

MODEL = "smollm2-135m"
SIDES = {
    "llamacpp": "",
    "torch": "",
    "torch-float32": 'dtype = "float32"',
    "torch-bfloat16": 'dtype = "bfloat16"',
    "onnx": "",
    "onnx-none": 'quantization = "none"',
    "onnx-int8": 'quantization = "int8"',
    "onnx-int4": 'quantization = "int4"',
}
"""Backends, each with the setting that chooses its number format."""

AT_ONCE = 4
END = -1
"""Stands for the end of an answer that the model ended."""

PROMPTS = (
    # questions
    "What is the capital of France?",
    "Why is the sky blue?",
    "How many legs does a spider have?",
    "Who wrote Romeo and Juliet?",
    "What happens to water at 100 degrees Celsius?",
    "Is a tomato a fruit or a vegetable?",
    "What is the difference between weather and climate?",
    "How do bees make honey?",
    "What is 17 plus 25?",
    "A train goes 60 km in one hour. How far does it go in three hours?",
    "When did the Second World War end?",
    "What is a hash table?",
    # instructions
    "Write a haiku about the sea.",
    "Explain gravity to a child of six.",
    "Translate to French: Good morning, my friend.",
    "Summarise in one sentence: The cat sat on the mat, looked at the rain, and decided to stay inside all day.",
    "Rewrite politely: Give me the report now.",
    "Write the first sentence of a ghost story.",
    "Give me a recipe for pancakes.",
    "Describe the colour red without naming it.",
    "Write a short e-mail that declines an invitation to a wedding.",
    "Correct the grammar: She don't likes apples.",
    "Tell me a joke about programmers.",
    "Answer with yes or no: is ice colder than steam?",
    "Write a slogan for a bakery.",
    # code
    "Write a Python function that reverses a string.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Write SQL that counts the orders of each customer.",
    "What does this print? print([x * x for x in range(4)])",
    "Write a regular expression for a date like 2024-05-17.",
    "Write a bash command that finds all files larger than 10 MB.",
    "Write an HTML page with a heading and a button.",
    'Complete: def is_even(n):\n    """Return whether n is even."""',
    "Write hello world in C.",
    'Write a JSON object that describes a book called "Dune".',
    # lists
    "List the planets of the solar system.",
    "List five European countries and their capitals.",
    "Name three primary colours.",
    "Give me ten words that rhyme with cat.",
    "List the months that have 30 days.",
    "What are the steps to change a bicycle tyre?",
    "Name four seasons, one on each line.",
    "Count from one to fifteen.",
    # other languages
    "¿Cuál es la capital de España?",
    "Écris une phrase sur le printemps.",
    "Wie heißt der höchste Berg der Welt?",
    "Raccontami una breve storia su un gatto.",
    "日本の首都はどこですか。",
    "Какая самая длинная река в мире?",
    "用中文写一句关于月亮的话。",
)


@dataclass(frozen=True)
class Answers:
    """What one side said: ``name`` tells its number format too; per prompt the tokens read and those answered."""

    name: str
    read: list[int]
    tokens: list[list[int]]


@dataclass(frozen=True)
class Alike:
    """How far the answers of two sides are equal."""

    answers: int
    equal: int
    divergences: list[int]
    share: float


def ask_side(side: str, folder: Path, prompts: tuple[str, ...], tokens: int, tokenizer: Any) -> Answers:
    """Fetch, prepare, serve and ask one side."""
    backend, setting = side.partition("-")[0], SIDES[side]
    address = f"{MODEL}@{backend}"
    config = f"""
[plugins]
allow = ["{backend}"]
[deployments."{address}"]
context_tokens = 2048
settings = {{ slots = {AT_ONCE}, threads = 1{", " if setting else ""}{setting} }}
"""
    (folder / "pull.toml").write_text(config)
    subprocess.run(
        [sys.executable, "-m", "core", "pull", "--config", str(folder / "pull.toml"), address],
        check=True,
        stdout=sys.stderr,  # the standard output is the table
    )
    port = free_port()
    with gateway(config, port, folder):
        replies = asyncio.run(ask(port, prompts, tokens))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            (replica,) = json.load(answer)["deployments"][address]["replicas"]
    bodies = [json.loads(reply.body) for reply in replies]
    choices = [body["choices"][0] for body in bodies]
    told = replica["engine"]["details"]
    return Answers(
        name=f"{backend} {told.get('dtype') or told.get('export_quantization') or ''}".strip(),
        read=[body["usage"]["prompt_tokens"] for body in bodies],
        tokens=[
            tokenizer(choice["message"]["content"], add_special_tokens=False).input_ids
            + [END] * (choice["finish_reason"] == "stop")
            for choice in choices
        ],
    )


async def ask(port: int, prompts: tuple[str, ...], tokens: int) -> list[Reply]:
    """Ask everything, some at once; return the answers in the prompts' order."""
    left = iter(enumerate(prompts))
    replies: dict[int, Reply] = {}

    async def one() -> None:
        connection = await connect("127.0.0.1", port)
        for number, prompt in left:
            said = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": tokens}
            body = json.dumps({"model": MODEL} | said).encode()
            replies[number] = reply = await connection.ask(http_request("/v1/chat/completions", body))
            assert reply.status == 200, reply.body[:500]
        connection.close()

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return [replies[number] for number in range(len(prompts))]


def common_prefix(one: list[int], other: list[int]) -> int:
    """Return how many tokens both begin with."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def compare(one: Answers, other: Answers) -> Alike:
    """Return how alike two sides are."""
    assert one.read == other.read, f"{one.name} and {other.name} read the prompts as other tokens"
    pairs = list(zip(one.tokens, other.tokens, strict=True))
    before = [common_prefix(*pair) for pair in pairs]
    return Alike(
        answers=len(pairs),
        equal=sum(left == right for left, right in pairs),
        divergences=[equal for equal, (left, right) in zip(before, pairs, strict=True) if left != right],
        share=sum(before) / sum(max(map(len, pair)) for pair in pairs),
    )


def row(one: Answers, other: Answers) -> str:
    """Return a line of the table."""
    alike = compare(one, other)
    where = "-"
    if alike.divergences:
        where = f"{statistics.median(alike.divergences):g} ({statistics.mean(alike.divergences):.1f})"
    return f"| {one.name} | {other.name} | {alike.equal} of {alike.answers} | {where} | {100 * alike.share:.0f} % |"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = ["llamacpp", "torch", "torch-float32", "onnx", "onnx-none"]
    parser.add_argument("--sides", nargs="+", choices=tuple(SIDES), default=defaults)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of them")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of an answer")
    options = parser.parse_args()
    prompts = PROMPTS[: options.prompts]
    from transformers import AutoTokenizer

    file = demo_weights()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    said = []
    for side in options.sides:
        with tempfile.TemporaryDirectory() as folder:
            said.append(ask_side(side, Path(folder), prompts, options.tokens, tokenizer))
        print(f"{side}: {said[-1].name}, {sum(map(len, said[-1].tokens))} tokens", file=sys.stderr, flush=True)
    print(
        "| one | other | equal answers | first divergence of those that differ: median (mean) | share of equal tokens |"
    )
    print("|---|---|---|---|---|")
    for one, other in itertools.combinations(said, 2):
        print(row(one, other))


if __name__ == "__main__":
    main()
