"""What a client sees of two models that do not fit into memory together."""

from __future__ import annotations

import threading

import httpx

MIB = 1 << 20
CONFIG = """
[supervisor]
memory_limit_bytes = 314572800
status_interval_s = 0.05
drain_timeout_s = 5
kill_after_s = 1
log_dir = "logs"

[deployments."a@echo"]
source = "/dev/null"
load = "on_demand"
memory_bytes = 209715200
settings = { ballast_bytes = 146800640, tokens_per_s = 20, slots = 2 }
[deployments."b@echo"]
source = "/dev/null"
load = "startup"
memory_bytes = 209715200
settings = { ballast_bytes = 146800640 }
[deployments."echo@echo"]
enabled = false
"""


def say(gateway, model, words=1):
    body = {"model": model, "messages": [{"role": "user", "content": "word " * words}]}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60)


def test_one_after_the_other_is_served_and_a_busy_one_is_not_touched(start, eventually):
    with start(CONFIG, quick=False) as gateway:
        eventually(lambda: gateway.health()["deployments"]["b@echo"]["state"] == "ready")
        for model in "abab":
            assert eventually(lambda model=model: (got := say(gateway, model)).status_code == 200 and got)
        health = gateway.health()
        assert health["status"] == "healthy", health["reasons"]
        assert health["deployments"]["a@echo"]["reason"] == (
            "unloaded to make room for b@echo; loads at the next request"
        )
        memory = health["memory"]
        assert memory["limit_bytes"] == 300 * MIB
        assert memory["used_bytes"] == memory["replicas"]["b@echo#0"]["bytes"] > 140 * MIB
        assert list(memory["replicas"]) == ["b@echo#0"]

        eventually(lambda: say(gateway, "a").status_code == 200)
        answers = []
        busy = threading.Thread(target=lambda: answers.append(say(gateway, "a", 60)))  # three seconds
        busy.start()
        eventually(lambda: gateway.health()["deployments"]["a@echo"]["in_flight"])
        refused = say(gateway, "b")
        assert refused.status_code == 503
        assert 0 < int(refused.headers["retry-after"]) <= 2
        message = refused.json()["error"]["message"]
        assert "b@echo is stopped (does not fit: it needs " in message
        assert message.endswith("(1 request runs)).")
        busy.join()
        assert answers[0].status_code == 200
        assert answers[0].json()["usage"]["completion_tokens"] == 60
        eventually(lambda: say(gateway, "b").status_code == 200)


def test_what_does_not_fit_is_loaded_as_soon_as_the_limit_is_raised(start, eventually, tmp_path):
    """Not when its time has come, a minute later: it would not have fitted alone."""
    with start(CONFIG.replace("314572800", "157286400"), quick=False, folder=tmp_path) as gateway:

        def replica():
            return gateway.health()["deployments"]["b@echo"]["replicas"][0]

        eventually(lambda: "all replicas together may take 150 MiB" in (replica()["reason"] or ""))
        assert replica()["state"] == "stopped"
        file = tmp_path / "gateway.toml"
        file.write_text(file.read_text().replace("157286400", "314572800"))
        assert httpx.post(f"{gateway.url}/admin/v1/reload", timeout=30).status_code == 200
        eventually(lambda: replica()["state"] == "ready", within_s=30)
