"""What an operator's settings make worse than it need be, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from core.routing.routes import Route, RouteOptions
from core.routing.table import Table
from core.settings import Settings
from core.testing.drills.configuration import RouteUnderDrill
from core.testing.drills.declared import Drill, time_of

__all__ = ["advice", "remedy", "routes_of"]

_MOST_NAMES = 8


def routes_of(settings: Settings, table: Table) -> list[RouteUnderDrill]:
    """The ways in which names are routed, each once: that of ``[routing]`` first, then those of ``[routes]``."""
    routing = settings.routing
    options = RouteOptions(attempt_timeout_s=routing.attempt_timeout_s, continuation=routing.continuation)
    found = [RouteUnderDrill(names=("[routing]",), policy=routing.policy, options=options)]
    for name, entry in settings.routes.items():
        route = table.routes[name]
        new = RouteUnderDrill(
            names=(f'[routes."{name}"]',), policy=route.policy, settings=entry.settings, options=route.options
        )
        same = next((one for one in found if _way(one) == _way(new)), None)
        if same is None:
            found.append(new)
        else:
            names = (*same.names, *new.names)
            found[found.index(same)] = RouteUnderDrill(
                names=names, policy=same.policy, settings=same.settings, options=same.options
            )
    return found


def advice(settings: Settings, table: Table, routes: Sequence[RouteUnderDrill]) -> list[str]:
    """Sentences on the settings as a whole, whatever the drills showed; empty when there is nothing to say."""
    return [*_of_routing(settings), *(said for route in routes for said in _of_route(route, settings)), *_of(table)]


def remedy(drill: Drill, settings: Settings, options: RouteOptions) -> str:
    """What may help against the failure of a drill; empty when the settings are not to blame."""
    routing = settings.routing
    if not drill.alone and routing.retry_burst < 1:
        return f"retry_burst = {routing.retry_burst:g} leaves no retry to any request; 10 or more in [routing] does."
    limit_s, setting = time_of(drill, settings, options)
    if drill.waits == "first_token" and setting == "limits.first_token_timeout_s":
        return (
            f"{setting} = {limit_s:g} ends the request before another replica is tried; set attempt_timeout_s below it."
        )
    if drill.waits == "stall" and limit_s > settings.limits.timeout_s:
        return f"{setting} = {limit_s:g} is above limits.timeout_s, so the request ends before its replica is given up."
    return ""


def _way(route: RouteUnderDrill) -> object:
    return route.policy, dict(route.settings), route.options


def _of_routing(settings: Settings) -> Iterator[str]:
    routing = settings.routing
    if routing.retry_burst < 1:
        yield f"[routing] retry_burst = {routing.retry_burst:g}: no request is ever tried on a second replica."
    elif not routing.retry_share:
        yield (
            f"[routing] retry_share = 0: once {routing.retry_burst:g} retries are used up, "
            "no request is ever tried on a second replica."
        )


def _of_route(route: RouteUnderDrill, settings: Settings) -> Iterator[str]:
    where, options = ", ".join(route.names), route.options
    if options.attempt_timeout_s is None and options.hedge_after_s is None:
        limit_s = min(settings.supervisor.stall_timeout_s, settings.limits.first_token_timeout_s)
        yield (
            f"{where} attempt_timeout_s is unset: a replica that hangs before its first token keeps a request for "
            f"{limit_s:g} s (supervisor.stall_timeout_s, limits.first_token_timeout_s). Set it a little above the time "
            "that your longest prompt takes."
        )
    if options.continuation == "off":
        yield (
            f'{where} continuation = "off": a stream whose replica dies ends with an error, also where another replica '
            'of the same weights could go on; "same_backend" lets it.'
        )


def _of(table: Table) -> Iterator[str]:
    """What the operator's own names lack."""
    single, untwinned = [], []
    for route in table.routes.values():
        if route.kind == "deployment" or not route.tiers:
            continue
        if _replicas(route) < 2:
            single.append(route.name)
        elif route.options.continuation != "off" and not _has_twins(route):
            untwinned.append(route.name)
    if single:
        yield f"One replica and nobody to fail over to: {_list(single)}. Add replicas = 2, or another deployment."
    if untwinned:
        yield (
            f"No two replicas of the same weights, so that a cut stream ends with an error: {_list(untwinned)}. "
            "replicas = 2 of a deployment makes a pair."
        )


def _replicas(route: Route) -> int:
    return sum(one.replicas for tier in route.tiers for one in tier)


def _has_twins(route: Route) -> bool:
    found: Counter[tuple[str | None, str]] = Counter()
    for tier in route.tiers:
        for one in tier:
            if "continuation" in one.backend.capabilities:
                found[one.spec.source or one.spec.name, one.backend.name] += one.replicas
    return any(count > 1 for count in found.values())


def _list(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
