"""Who may manage the gateway, and who may not."""

from __future__ import annotations

import asyncio
import json

import pytest
from sanic import Sanic

from core.http.admin import guard, who_may_manage

KEY = "a-key-of-sixteen-letters:✓✓"


async def refused(response, status: int, code: str) -> str:
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers["x-request-id"]
    return response.json()["error"]["message"]


async def test_without_a_key_this_machine_may(lab) -> None:
    for host in ("127.0.0.1:80", "localhost", "[::1]:8080", "127.8.8.8"):
        response = await lab.client.get("deployments", headers={"host": host, "x-request-id": "mine"})

        assert (response.status_code, response.headers["x-request-id"]) == (200, "mine")


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "forwarded", "x-real-ip", "Via", "x-forwarded-proto", "cf-connecting-ip", "x-forwarded-host"],
)
async def test_without_a_key_nobody_behind_a_proxy_may(lab, header) -> None:
    """A proxy on this machine makes everybody a peer on the loopback interface."""
    message = await refused(await lab.client.get("deployments", headers={header: "127.0.0.1"}), 403, "admin_forbidden")

    assert "GATEWAY_ADMIN__KEY" in message


@pytest.mark.parametrize(
    "host", ["gateway.example.org", "10.0.0.1", "localhost.example.org", "127.0.0.1.nip.io", "", "[::1"]
)
async def test_without_a_key_other_names_of_this_machine_are_refused(lab, host) -> None:
    """A site may let its name lead here; to a browser, its pages then are of this site."""
    await refused(await lab.client.get("deployments", headers={"host": host}), 403, "admin_forbidden")


async def test_without_a_key_other_machines_may_not(lab, monkeypatch) -> None:
    """As the socket says, whatever the headers say."""
    monkeypatch.setattr(guard, "_peer", lambda _request: "10.1.2.3")
    headers = {"x-forwarded-for": "127.0.0.1", "host": "localhost"}
    await refused(await lab.client.get("deployments", headers=headers), 403, "admin_forbidden")
    message = await refused(await lab.client.get("deployments"), 403, "admin_forbidden")
    assert "loopback" in message
    assert "admin.key" in message


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True),
        ("127.255.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("[unix]", False),
        ("fe80::1", False),
    ],
)
def test_what_is_the_loopback_interface(address, here) -> None:
    assert guard._is_loopback(address) is here


async def test_with_a_key_it_must_be_sent(start) -> None:
    """Whatever the interface; also when it holds more than ASCII."""
    async with start(admin={"key": KEY}) as lab:

        async def ask(value: bytes | None):
            headers = [(b"authorization", value)] if value is not None else []
            return await lab.client.get("deployments", headers=headers)

        assert (await ask(b"Bearer " + KEY.encode())).status_code == 200
        assert (await ask(b"bearer  " + KEY.encode())).status_code == 200
        for wrong in (
            None,
            b"",
            b"Bearer",
            b"Bearer " + KEY[:-1].encode(),
            b"Bearer " + KEY.encode() + b"x",
            b"Bearer \xff\xfe",
            b"Basic " + KEY.encode(),
            KEY.encode(),
        ):
            response = await ask(wrong)
            await refused(response, 401, "invalid_admin_key")
            assert response.headers["www-authenticate"] == "Bearer"
            assert KEY not in response.text


async def test_with_a_key_proxies_and_other_names_are_welcome(start) -> None:
    async with start(admin={"key": "x" * 16}) as lab:
        headers = {"authorization": "Bearer " + "x" * 16, "x-forwarded-for": "8.8.8.8", "host": "gateway.example.org"}

        assert (await lab.client.get("deployments", headers=headers)).status_code == 200


async def test_the_key_of_a_reload_counts_at_once(start) -> None:
    async with start() as lab:
        assert (await lab.client.get("aliases")).status_code == 200
        lab.configure(admin={"key": "x" * 16})
        await refused(await lab.client.get("aliases"), 401, "invalid_admin_key")


@pytest.mark.parametrize("route", ["deployments/echo@echo/unload", "reload", "reset"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "", "file://", "http://[x"])
async def test_a_page_of_another_site_changes_nothing(lab, route, origin) -> None:
    """A browser sends its request here, with the page's origin."""
    await refused(await lab.client.post(route, headers={"origin": origin}), 403, "admin_forbidden")
    assert lab.supervisor.commands == []


async def test_a_page_of_this_site_may(lab) -> None:
    headers = {"origin": str(lab.client.base_url).removesuffix("/admin/v1/")}

    assert (await lab.client.post("reload", headers=headers)).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_form_is_no_body(lab, kind) -> None:
    """What browsers send to other sites without asking them first."""
    body = json.dumps({"names": ["*"]})
    await refused(
        await lab.client.post("reset", content=body, headers={"content-type": kind}), 415, "unsupported_media_type"
    )
    assert lab.supervisor.commands == []


async def test_every_route_is_guarded(start) -> None:
    """None was forgotten."""
    async with start(admin={"key": "x" * 16}) as lab:
        app = next(app for name, app in Sanic._app_registry.items() if app.ctx.gateway is lab.gateway)
        routes = [(route.path, method) for route in app.router.routes for method in route.methods]
        admin = [(path, method) for path, method in routes if path.startswith("admin/")]
        assert len(admin) > 15
        for path, method in admin:
            url = path.removeprefix("admin/v1/").replace("<name:path>", "echo@echo").replace("<name:str>", "echo")
            await refused(await lab.client.request(method, url), 401, "invalid_admin_key")
        assert lab.supervisor.commands == []


async def test_a_method_that_is_not_there_is_405(lab) -> None:
    response = await lab.client.get("reload")

    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


def test_it_is_said_at_the_start_who_may() -> None:
    assert "loopback interface only" in who_may_manage(None)
    assert "GATEWAY_ADMIN__KEY" in who_may_manage(None)
    assert "key" in who_may_manage("secret-secret-secret")
    assert "secret" not in who_may_manage("secret-secret-secret")


async def test_a_key_in_raw_bytes_is_no_mistake_of_ours(start) -> None:
    """Bytes that are no UTF-8, sent as they are."""
    async with start(admin={"key": "x" * 16}) as lab:
        url = lab.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET /admin/v1/aliases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\xed\xa0\x80\r\n\r\n")
        status = await reader.readline()
        writer.close()
        assert b"401" in status or b"400" in status
