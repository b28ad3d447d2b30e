"""To change something by way of the supervisor, and to see it here before it is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import unquote

from core.errors import GatewayError
from core.http.gateway import Gateway
from core.routing.table import Deployment
from core.wire.control import Change, Overrides
from core.words import did_you_mean

__all__ = ["change", "deployment_named", "until"]

# The supervisor tells every HTTP worker of a change at once.
_SEEN_WITHIN_S = 2.0


async def change(gateway: Gateway, command: Change) -> Overrides:
    """Have overrides changed; returns when this very HTTP worker routes by them.

    Raises:
        GatewayError: refused, and nothing was changed; or the supervisor is away.
    """
    overrides = await gateway.management.change(command)
    # Somebody else's next change may overtake this one, which is then seen as a part of that.
    await until(gateway, lambda: gateway.generation.overrides == overrides, within_s=_SEEN_WITHIN_S)
    return overrides


async def until(gateway: Gateway, condition: Callable[[], bool], *, within_s: float) -> bool:
    """Wait until a condition on what this worker knows is true; return whether it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not condition():
                await gateway.fleet.changed()
    return condition()


def deployment_named(gateway: Gateway, name: str) -> Deployment:
    """Return the deployment of that id, which may be percent-coded.

    Raises:
        GatewayError: 404, there is none.
    """
    name = unquote(name)  # Sanic leaves the names of path parameters as they came
    deployments = gateway.generation.table.deployments
    if name not in deployments:
        message = f"There is no deployment '{name}'; {did_you_mean(name, deployments)}"
        raise GatewayError(message, status=404, type="invalid_request_error", code="deployment_not_found")
    return deployments[name]
