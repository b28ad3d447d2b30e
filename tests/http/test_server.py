"""What HTTP clients meet besides good answers: limits, odd requests, time-outs, keep-alives, probes."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest


def error_of(response: httpx.Response) -> dict:
    assert response.headers["content-type"] == "application/json"
    return response.json()["error"]


def test_a_body_over_the_limit_is_413(gateway) -> None:
    response = gateway.chat("x" * 200_000)

    assert response.status_code == 413
    assert "100000" in error_of(response)["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"model": 3}', b'{"a":' * 200])
def test_junk_is_400(gateway, body) -> None:
    response = httpx.post(f"{gateway.url}/v1/chat/completions", content=body)

    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_an_unknown_url_is_404_in_openais_shape(gateway) -> None:
    response = httpx.get(f"{gateway.url}/v2/chat")

    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")


def test_a_model_may_be_named_in_percent_code(gateway) -> None:
    assert httpx.get(f"{gateway.url}/v1/models/echo%40echo").json()["id"] == "echo@echo"


def test_a_wrong_method_is_405(gateway) -> None:
    response = httpx.get(f"{gateway.url}/v1/chat/completions")

    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert "POST" in response.headers["allow"]
    assert "POST" in error_of(response)["message"]


def test_the_timeout_header_bounds_a_request(gateway) -> None:
    began = time.monotonic()
    with httpx.Client(headers={"x-request-timeout-s": "0.5"}) as client:
        body = {"model": "slow", "messages": [{"role": "user", "content": "a b"}]}
        response = client.post(f"{gateway.url}/v1/chat/completions", json=body)

    assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
    assert time.monotonic() - began < 3


def test_a_stream_past_its_deadline_ends_with_an_error_event(gateway) -> None:
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "a b"}]}
    headers = {"x-request-timeout-s": "1.6"}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as response:
        lines = [line for line in response.iter_lines() if line]

    assert response.status_code == 200
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
    assert not any("[DONE]" in line for line in lines)
    assert any('"content":"a ' in line for line in lines)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_a_bad_timeout_header_is_refused(gateway, value) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    response = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers={"x-request-timeout-s": value})

    assert (response.status_code, error_of(response)["param"]) == (400, "x-request-timeout-s")


def test_a_silent_stream_sends_comments(gateway) -> None:
    """The slow model takes 1 s to its first token; keepalive_s is 0.3."""
    body = {"model": "slow", "stream": True, "max_tokens": 2, "messages": [{"role": "user", "content": "a b"}]}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]

    assert lines[0].startswith(":")
    assert lines[-1] == "data: [DONE]"


def test_a_client_that_leaves_frees_its_slot(gateway, eventually) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "slow", "stream": True, "messages": [{"role": "user", "content": "a b"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    clients = []
    for _ in range(6):
        client = socket.create_connection((host, int(port)))
        client.sendall(head + body)
        clients.append(client)
    slow = "slow@echo"
    eventually(lambda: gateway.health()["deployments"][slow]["in_flight"] == 4)
    eventually(lambda: gateway.health()["deployments"][slow]["queued"] == 2)
    for client in clients:
        client.close()

    eventually(lambda: gateway.health()["deployments"][slow]["in_flight"] == 0, within_s=3)
    eventually(lambda: gateway.health()["deployments"][slow]["queued"] == 0, within_s=3)
    eventually(lambda: gateway.health()["requests_in_flight"] == 0, within_s=3)


def test_health_counts_what_happened(gateway) -> None:
    before = gateway.health()
    gateway.chat()
    gateway.chat(model="nobody")
    after = gateway.health()

    assert after["total_requests"] == before["total_requests"] + 2
    assert after["deployments"]["echo@echo"]["requests"] == before["deployments"]["echo@echo"]["requests"] + 1
    assert after["backends_available"] == ["echo"]
    assert after["deployments"]["echo@echo"]["ttft_s"]["p50"] > 0
    assert "python -m core pull" not in json.dumps(after["deployments"]["echo@echo"])


def test_probes(gateway) -> None:
    assert httpx.get(f"{gateway.url}/livez").status_code == 200
    assert httpx.get(f"{gateway.url}/readyz").status_code == 200


def test_load_balancers_may_ask_with_head(gateway) -> None:
    for path in ("/health", "/livez", "/readyz"):
        response = httpx.head(f"{gateway.url}{path}")

        assert (response.status_code, response.content) == (200, b"")


def test_metrics_are_prometheus_text(gateway) -> None:
    gateway.chat()
    response = httpx.get(f"{gateway.url}/metrics")

    assert response.headers["content-type"].startswith("text/plain")
    assert 'gateway_request_success_total{deployment="echo@echo",reason="stop"}' in response.text
    assert 'gateway_replica_up{deployment="echo@echo",replica="echo@echo#0"} 1.0' in response.text
