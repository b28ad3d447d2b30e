"""docs/openai.md and docs/errors.md say what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from core.dialects.openai.fields import ACCEPTED, CHAT, COMPLETION, EMBEDDINGS, RERANK
from core.errors import GatewayError

ROOT = Path(__file__).parents[3]
OPENAI = (ROOT / "docs/openai.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs/errors.md").read_text(encoding="utf-8")

SHARED = {path: must for path, must in CHAT.honoured.items() if COMPLETION.honoured.get(path) == must}


def table(text: str, heading: str | None = None) -> list[tuple[str, ...]]:
    """The first table after the heading, without its head; cells without back-ticks."""
    if heading is not None:
        text = text.split(f"\n{heading}\n", 1)[1]
    block = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n)*)", text, re.MULTILINE)
    assert block
    lines = block[1].splitlines()
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split(" | ")) for line in lines]


@pytest.mark.parametrize(
    ("heading", "honoured"),
    [
        ("### Chat and legacy completions", SHARED),
        ("### Chat completions", {k: v for k, v in CHAT.honoured.items() if k not in SHARED}),
        ("### Legacy completions", {k: v for k, v in COMPLETION.honoured.items() if k not in SHARED}),
        ("### Embeddings", EMBEDDINGS.honoured),
        ("### Rerank", RERANK.honoured),
        ("## Accepted", ACCEPTED),
    ],
)
def test_fields_are_documented_as_they_are_checked(heading: str, honoured: dict[str, str]) -> None:
    assert table(OPENAI, heading) == list(honoured.items())


def test_refused_fields_are_documented() -> None:
    assert not COMPLETION.refused
    assert not EMBEDDINGS.refused
    assert not RERANK.refused
    refused = [(name, ", ".join(("null", *why.harmless)), why.remedy) for name, why in CHAT.refused.items()]
    assert table(OPENAI, "## Refused") == refused


DOCUMENTED = {code: (status, kind) for status, kind, code, _when, _remedy in table(ERRORS)}

# What an engine tells the gateway; clients see the error of the replica that broke off.
BETWEEN_PROCESSES = {"cannot_continue"}

MADE = [
    GatewayError.unsupported("m", param="p"),
    GatewayError.too_large(1),
    GatewayError.model_not_found("m"),
    GatewayError.model_disabled("m"),
    GatewayError.not_ready("m", retry_after_s=1),
    GatewayError.busy("m", retry_after_s=1),
    GatewayError.timeout("m"),
    GatewayError.engine_failed("m"),
    GatewayError.internal(),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: error.code)
def test_status_type_and_code_are_documented(error: GatewayError) -> None:
    assert error.code
    assert DOCUMENTED[error.code] == (str(error.status), error.type)


def codes_in(tree: ast.AST) -> set[str]:
    """Literals given as ``code=`` to whatever is called, or second to what refuses an operator's command."""
    values: list[ast.expr] = []
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            values += [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            if isinstance(call.func, ast.Name) and call.func.id == "RefusedError":
                values += call.args[1:2]
    return {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)}


def test_every_code_is_documented_and_no_other() -> None:
    files = [
        file
        for folder in ("core", "plugins", "examples")
        for file in (ROOT / folder).rglob("*.py")
        if not {"tests", "build"} & set(file.relative_to(ROOT).parts)
    ]
    used = set().union(*(codes_in(ast.parse(file.read_bytes())) for file in files))
    assert used - BETWEEN_PROCESSES == set(DOCUMENTED)


def test_the_example_of_an_error_is_a_real_one() -> None:
    body = GatewayError.invalid(f"'n' must be {CHAT.honoured['n']}.", param="n", code="invalid_value").body()
    example = re.search(r"```json\n(.*)\n```", ERRORS)
    assert example
    assert ast.literal_eval(example[1]) == body
