"""What operators command: each is checked whole, then done whole, or refused with all that is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from core.api.specs import ModelSpec
from core.registry import Generation, Registry, absent_weights, build_generation, installed_since, make_policies
from core.routing.overrides import configured as configured_keys
from core.settings import BackendTable, Settings, SettingsError
from core.supervisor.events import Events
from core.supervisor.forecast import forecast
from core.supervisor.overrides import (
    Known,
    RefusedError,
    apply,
    how_to_enable,
    joined,
    left_out,
    parted,
    sensible,
    why_disabled,
    woken,
)
from core.supervisor.reload import difference, overridden, with_what_stays
from core.supervisor.replica import Replica
from core.supervisor.replica_events import DrainOrdered, LoadOrdered, RestartOrdered, UnloadOrdered
from core.supervisor.store import OverrideStore, StoreError
from core.supervisor.words import what_changed
from core.wire.control import Action, AdminReply, Change, Operate, Overrides, Reload
from core.words import did_you_mean

__all__ = ["Administration", "Order", "Subordinate"]

_log = logging.getLogger(__name__)
Order = LoadOrdered | UnloadOrdered | DrainOrdered | RestartOrdered
_ORDERS: dict[Action, Order] = {
    "load": LoadOrdered(),
    "unload": UnloadOrdered(),
    "drain": DrainOrdered(),
    "restart": RestartOrdered(),
}
Sensible = tuple[Generation, Overrides, dict[str, str]]
_STARTING: frozenset[Action] = frozenset({"load", "restart"})


class Subordinate(Protocol):
    """Who carries it out: `core.supervisor.loop.Supervisor`.

    Attributes:
        generation: what it runs by.
        stopping: whether it shuts down.
    """

    @property
    def generation(self) -> Generation: ...  # noqa: D102 - see above
    @property
    def stopping(self) -> bool: ...  # noqa: D102 - see above

    async def take_over(self, generation: Generation) -> Sequence[str]:
        """Run by another generation from now on; return when the HTTP workers do too, or are too slow.

        What is returned is why some cannot.
        """
        ...

    def replicas(self, deployment: str) -> Sequence[Replica]:
        """Return a deployment's replicas."""
        ...

    def order(self, deployment: str, order: Order) -> None:
        """Tell all replicas of a deployment."""
        ...


class Administration:
    """Executes commands, one at a time.

    Args:
        read_settings: reads the configuration again, raising `SettingsError`; None: there is none to be read.
        configuration_replaced: called with the settings that a reload has put in effect; may block.
    """

    def __init__(
        self,
        registry: Registry,
        store: OverrideStore,
        events: Events,
        *,
        read_settings: Callable[[], Settings] | None,
        configuration_replaced: Callable[[Settings], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._events = events
        self._read_settings = read_settings
        self._configuration_replaced = configuration_replaced
        self._dormant = Overrides()
        self._wrong: Mapping[str, str] = {}
        self._one_at_a_time = asyncio.Lock()

    def first_generation(self, configured: Settings) -> Generation:
        """Build what is configured and was changed before.

        Raises:
            SettingsError: the configuration makes no table.
        """
        return self._in_effect(*self._sensible(configured, self._store.load(), number=1))

    def close(self) -> None:
        """Nothing will be changed any more: another gateway may keep its changes in the same file."""
        self._store.close()

    async def execute(self, command: Change | Operate | Reload, who: Subordinate) -> AdminReply:
        """Do what is commanded, or say why not; never raises."""
        async with self._one_at_a_time:
            try:
                body = await self._do(command, who)
            except RefusedError as refused:
                return AdminReply(status=refused.status, code=refused.code, message=refused.message)
            except Exception:  # noqa: BLE001 - one command's failure is not the supervisor's
                _log.exception("a command failed by a mistake of the gateway")
                message = "This failed by a mistake of the gateway; the supervisor's log has the details."
                return AdminReply(status=500, code="internal_error", message=message)
        return AdminReply(body=msgspec.json.encode(body))

    async def _do(self, command: Change | Operate | Reload, who: Subordinate) -> Any:
        """Return the body of the reply.

        Raises:
            RefusedError: nothing was done.
        """
        if who.stopping:
            raise RefusedError(409, "shutting_down", "The gateway is shutting down.")
        match command:
            case Change():
                return await self._change(command, who)
            case Operate(deployment=deployment, action=action):
                return self._operate(deployment, action, who)
            case Reload(dry_run=dry_run):
                return await self._reload(who, dry_run=dry_run)

    # --- changes

    async def _change(self, command: Change, who: Subordinate) -> Overrides:
        if not self._store.owned:
            await self._read_again(who)
        if self._store.problem:
            raise RefusedError(409, "not_kept", f"Nothing was changed: {self._store.problem}.")
        before = who.generation
        kept = joined(self._dormant, before.overrides)
        wanted = apply(kept, command, self._known(before, command))
        must, may = parted(wanted, self._dormant, command)
        if (must, may) == (before.overrides, self._dormant):
            return kept
        try:
            sense = self._sensible(before.configured, wanted, number=before.number + 1, checked=before)
            if joined(sense[0].overrides, must) != sense[0].overrides:
                build_generation(self._registry, before.configured, must, before=before)  # has all mistakes at once
                raise SettingsError("\n".join(sense[2].values()))  # noqa: TRY301 - the other way to the same answer
        except SettingsError as error:
            raise RefusedError(400, "invalid_value", str(error)) from error
        try:
            await asyncio.to_thread(self._store.save, wanted)
        except StoreError as error:
            _log.error("%s", error)
            raise RefusedError(409, "not_kept", f"Nothing was changed: {error}.") from error
        _log.info("generation %d: changed at run time: %s", before.number + 1, what_changed(kept, wanted))
        generation = self._in_effect(*sense)
        self._events.add("overrides", data=msgspec.to_builtins(wanted))
        _in_effect_everywhere(await who.take_over(generation))
        return wanted

    async def _read_again(self, who: Subordinate) -> None:
        """Go over to what is kept, if it could not be read before or another gateway may have changed it."""
        before = who.generation
        kept = await asyncio.to_thread(self._store.load, to_change=True)
        if self._store.problem or kept == joined(self._dormant, before.overrides):
            return
        generation = self._in_effect(*self._sensible(before.configured, kept, number=before.number + 1))
        _log.info("generation %d: what was changed at run time was read again", generation.number)
        self._events.add("overrides", data=msgspec.to_builtins(kept))
        await who.take_over(generation)

    def _known(self, generation: Generation, command: Change) -> Known:
        offered = {alias for one in generation.table.deployments.values() for alias in one.spec.aliases}
        configured = generation.configured
        routed = {name: route.models for name, route in configured.routes.items() if route.models is not None}
        return Known(
            deployments=generation.table.deployments.keys(),
            backends=self._registry.backends.keys(),
            aliases=offered | routed.keys() | configured.aliases.keys(),
            configured=Overrides(
                deployments={
                    id_: configured_keys(configured, self._declared(one.spec))
                    for id_ in command.deployments
                    if (one := generation.table.deployments.get(id_))
                },
                backends={name: (configured.backends.get(name) or BackendTable()).enabled for name in command.backends},
                aliases=routed | configured.aliases,
            ),
        )

    def _declared(self, spec: ModelSpec) -> ModelSpec:
        """Return what a plugin says of a deployment, or the defaults."""
        declared = (one.spec for one in self._registry.models if one.spec.deployment == spec.deployment)
        return next(declared, None) or ModelSpec(name=spec.name, backend=spec.backend)

    def _sensible(
        self, configured: Settings, overrides: Overrides, *, number: int, checked: Generation | None = None
    ) -> Sensible:
        def build(some: Overrides, before: Generation | None) -> Generation:
            return build_generation(self._registry, configured, some, number=number, before=before or checked)

        return sensible(build, overrides)

    def _in_effect(self, generation: Generation, dormant: Overrides, wrong: Mapping[str, str]) -> Generation:
        """Remember which overrides are left out, and say which are so newly, and which no more."""
        for sentence in left_out({name: why for name, why in wrong.items() if name not in self._wrong}):
            _log.warning("%s", sentence)
        for sentence in woken(self._dormant, generation.overrides):
            _log.info("%s", sentence)
        self._dormant, self._wrong = dormant, wrong
        return generation

    # --- operations

    def _operate(self, deployment: str, action: Action, who: Subordinate) -> dict[str, Any]:
        generation = who.generation
        if deployment not in generation.table.deployments:
            hint = did_you_mean(deployment, generation.table.deployments)
            raise RefusedError(404, "not_found", f"There is no deployment {deployment!r}; {hint}.")
        replicas = who.replicas(deployment)
        if action in _STARTING:
            if disabled := why_disabled(generation, deployment):
                remedy = how_to_enable(generation, deployment)
                message = f"{deployment} cannot be loaded: {disabled}. Enable it first: {remedy}."
                raise RefusedError(409, "disabled", message)
            if all(replica.state == "absent" for replica in replicas):
                raise RefusedError(409, "absent", f"{deployment} cannot be loaded: {replicas[0].reason}.")
        _log.info("%s: an operator ordered: %s", deployment, action)
        who.order(deployment, _ORDERS[action])
        told = [{"replica": one.name, "state": one.state, "reason": one.reason} for one in who.replicas(deployment)]
        return {"deployment": deployment, "action": action, "replicas": told}

    # --- the configuration

    async def _reload(self, who: Subordinate, *, dry_run: bool) -> dict[str, Any]:
        if self._read_settings is None:
            message = (
                "There is no configuration to be read again: this gateway was given its settings by the program that "
                "made it, create_app(settings=...)."
            )
            _log.error("the configuration is not read again. %s", message)
            raise RefusedError(409, "no_configuration", message)
        if self._store.problem and not dry_run:
            await self._read_again(who)
        before = who.generation
        try:
            read = await asyncio.to_thread(self._read_settings)
            checked = build_generation(self._registry, read)  # what only a restart applies must be right too
            settings = with_what_stays(before.configured, read)
            kept = joined(self._dormant, before.overrides)
            sense = self._sensible(settings, kept, number=before.number + 1, checked=checked)
            make_policies(self._registry, sense[0].settings)
        except SettingsError as error:
            message = "\n".join([str(error), *installed_since(self._registry)])
            if not dry_run:
                _log.error("the configuration is not read again, the old one stays:\n%s", message)
                self._events.add("configuration", data={"generation": before.number, "refused": message})
            raise RefusedError(400, "invalid_configuration", message) from error
        found = difference(before.configured, read)
        missing = await asyncio.to_thread(absent_weights, sense[0].table, settings)
        told: dict[str, Any] = {
            "generation": before.number,
            "changed": list(found.changed),
            "restart_needed": [*found.restart_needed, *installed_since(self._registry)],
            "overridden": list(overridden(before.configured, settings, sense[0].overrides)),
            "warnings": [
                *sense[0].table.warnings,
                *missing,
                *left_out(sense[2]),
                *woken(self._dormant, sense[0].overrides),
            ],
            **forecast(before, sense[0], who.replicas),
        }
        if dry_run:
            return told
        if not found.changed:
            _log.info("the configuration was read again; nothing has changed")
            return told
        problems: Sequence[str] = ()
        if settings != before.configured:
            generation = self._in_effect(*sense)
            told["generation"] = generation.number
            await self._hand_over(settings)
            problems = await who.take_over(generation)
        keys = ", ".join(str(one["key"]) for one in found.changed)
        _log.info("generation %d: the configuration was read again; changed: %s", told["generation"], keys)
        for sentence in [*found.restart_needed, *told["overridden"]]:
            _log.warning("%s", sentence)
        self._events.add("configuration", data=told)
        _in_effect_everywhere(problems)
        return told

    async def _hand_over(self, settings: Settings) -> None:
        try:
            await asyncio.to_thread(self._configuration_replaced, settings)
        except OSError as error:
            _log.warning("processes that are restarted will begin with the old configuration: %s", error)


def _in_effect_everywhere(problems: Sequence[str]) -> None:
    """Say of what was done that some HTTP workers do not know it.

    Raises:
        RefusedError: there are such.
    """
    if problems:
        message = (
            f"This is kept, and the supervisor runs by it, but {'; '.join(problems)}. Take it back, or restart the "
            "gateway, so that all its processes have the same plugins."
        )
        _log.error("%s", message)
        raise RefusedError(500, "not_in_effect", message)
