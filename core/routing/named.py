"""Which deployments an operator means who names a model, an alias or a deployment to fetch the weights of."""

from __future__ import annotations

from core.routing.deployments import Deployment
from core.routing.table import Table
from core.words import did_you_mean

__all__ = ["NotMeantError", "deployments_to_pull"]


class NotMeantError(LookupError):
    """A name means nothing, or nothing that can be taken for meant; the message says what to write instead."""


def deployments_to_pull(table: Table, name: str) -> list[Deployment]:
    """Return one deployment by its id, even a disabled one, or every enabled one of a model or an alias.

    Raises:
        NotMeantError: there is no such name, or all that it means is disabled.
    """
    if name in table.deployments:
        return [table.deployments[name]]
    if name not in table.routes:
        msg = f"There is no model, alias or deployment {name!r}; {did_you_mean(name, table.routes)}"
        raise NotMeantError(msg)
    enabled = [one for tier in table.routes[name].tiers for one in tier]
    if not enabled:
        models = [name] if name in table.models else table.aliases[name].targets
        ids = [one for one, deployment in table.deployments.items() if {one, deployment.spec.name} & set(models)]
        msg = f"Every deployment of {name} is disabled; name the one to pull: {', '.join(ids)}"
        raise NotMeantError(msg)
    return enabled
