"""``chat``: talk to a model of the running gateway, over its HTTP API as any client would."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx

from core.cli.common import URL_VARIABLE, CommandError, url_of_gateway

__all__ = ["chat"]

# A model may have to load before its first word; the gateway's own deadlines are shorter than this one.
_TIMEOUT = httpx.Timeout(900.0, connect=5.0)


def chat(arguments: argparse.Namespace) -> int:
    """One answer for a message given or piped in; else a conversation until end of input."""
    message = arguments.message
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
        if not message:
            msg = "Standard input is empty: pipe in a message, give one as an argument, or run in a terminal."
            raise CommandError(msg)
    url = url_of_gateway(arguments)
    # Not through a proxy of the environment: the gateway is usually this machine.
    with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
        try:
            model = arguments.model or _first_active(client)
            if message is not None:
                _answer(client, model, [{"role": "user", "content": message}])
            else:
                _converse(client, model)
        except httpx.HTTPError as error:
            msg = (
                f"{url} cannot be talked to ({error or type(error).__name__}): is the gateway running? "
                f"Name another one with --url, or in {URL_VARIABLE}."
            )
            raise CommandError(msg) from error
    return 0


def _converse(client: httpx.Client, model: str) -> None:
    print(f"Talking to {model}. Ctrl-C stops an answer, Ctrl-D ends.", file=sys.stderr)
    messages: list[dict[str, str]] = []
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            print()
            return
        if not question:
            continue
        messages.append({"role": "user", "content": question})
        try:
            messages.append({"role": "assistant", "content": _answer(client, model, messages)})
        except KeyboardInterrupt:
            print()
            messages.pop()
        except CommandError as error:
            print(f"error: {error}", file=sys.stderr)
            messages.pop()


def _answer(client: httpx.Client, model: str, messages: list[dict[str, str]]) -> str:
    """Print an answer as it comes; return its text."""
    body = {"model": model, "messages": messages, "stream": True}
    pieces: list[str] = []
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if not response.is_success:
            response.read()
            raise CommandError(_error_message(response))
        for event in _events(response.iter_lines()):
            if "error" in event:
                print()
                raise CommandError(event["error"]["message"])
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                pieces.append(piece)
                print(piece, end="", flush=True)
    print()
    return "".join(pieces)


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
    print()
    msg = "The answer was cut short: the connection ended before the stream did."
    raise CommandError(msg)


def _first_active(client: httpx.Client) -> str:
    response = client.get("/v1/models")
    if not response.is_success:
        raise CommandError(_error_message(response))
    models = response.json()["data"]
    active = next((model["id"] for model in models if model.get("active")), None)
    if active is None:
        msg = "No model is active; `python -m core models` says what is missing. Or name one with --model."
        raise CommandError(msg)
    return str(active)


def _error_message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code} {response.reason_phrase}: is that the gateway?"
