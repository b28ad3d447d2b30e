"""The yardstick: a Sanic handler that parses the same body and writes the same bytes, with nothing between."""

from __future__ import annotations

import os

import msgspec
from sanic import HTTPResponse, Request, Sanic

TOKENS = int(os.environ.get("BENCH_TOKENS", "32"))

app = Sanic("bare")
app.config.ACCESS_LOG = False

_HEAD = b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"echo","choices":[{"index":0,"delta":{"content":"'
_TAIL = b'"},"logprobs":null,"finish_reason":null}]}\n\n'
_WHOLE = b'{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion","created":1700000000,"model":"echo","choices":[{"index":0,"message":{"role":"assistant","content":"%s","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":32,"total_tokens":41}}'

_HEADERS = {
    "x-request-id": "0123456789abcdef0123456789abcdef",
    "x-gateway-model": "echo",
    "x-gateway-backend": "echo",
    "x-gateway-replica": "echo@echo#0",
}
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **_HEADERS}


@app.post("/v1/chat/completions")
async def chat(request: Request) -> HTTPResponse | None:
    """Parse, then answer with the bytes that the echo backend would cause."""
    body = msgspec.json.decode(request.body)
    words = [b"word "] * TOKENS
    if not body.get("stream"):
        return HTTPResponse(_WHOLE % b"".join(words), content_type="application/json", headers=_HEADERS)
    response = await request.respond(content_type="text/event-stream; charset=utf-8", headers=_STREAM_HEADERS)
    for word in words:
        await response.send(_HEAD + word + _TAIL)
    await response.send(b"data: [DONE]\n\n")
    await response.eof()
    return None
