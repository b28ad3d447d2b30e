"""One generation of the configuration: what is configured, what was changed at run time, and the table of both."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from core.registry.build import build_table
from core.registry.registry import Registry
from core.routing.overrides import effective
from core.routing.table import Table
from core.settings import Settings, SettingsError
from core.wire.control import Configuration, Overrides

__all__ = ["Generation", "build_generation", "receive_generation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What a process routes and runs by, until the next one; requests keep the one that they began with.

    Attributes:
        number: 1 is the first of a supervisor; 0 is what a process built before it heard of a supervisor.
        configured: the settings without what was changed at run time.
        overrides: what was changed at run time.
        settings: the settings in effect.
        table: the alias table of ``settings``.
        as_json: ``configured`` as other processes are told it.
    """

    number: int
    configured: Settings
    overrides: Overrides
    settings: Settings
    table: Table
    as_json: bytes

    def configuration(self) -> Configuration:
        """Return what other processes build the same generation of, with `receive_generation`."""
        return Configuration(generation=self.number, settings=self.as_json, overrides=self.overrides)


def build_generation(
    registry: Registry,
    configured: Settings,
    overrides: Overrides | None = None,
    *,
    number: int = 0,
    before: Generation | None = None,
) -> Generation:
    """Build a generation; the same in every process with the same plugins.

    With another generation, ``before``, it is built sooner, and comes out the same.

    Raises:
        SettingsError: settings and overrides make no table; all mistakes, one a line.
    """
    same = before if before and before.configured is configured else None
    overrides = overrides or Overrides()
    settings = effective(configured, overrides, before=(same.overrides, same.settings) if same else None)
    return Generation(
        number=number,
        configured=configured,
        overrides=overrides,
        settings=settings,
        table=build_table(registry, settings, before=before.table if before else None),
        as_json=same.as_json if same else configured.model_dump_json().encode(),
    )


def receive_generation(
    registry: Registry, configuration: Configuration, *, before: Generation | None = None
) -> Generation:
    """Build the generation that the supervisor runs by; ``before`` as in `build_generation`.

    Raises:
        SettingsError: the plugins of this process make no table of it.
    """
    if before and before.as_json == configuration.settings:
        configured = before.configured
    else:
        try:
            # Values, not a source of settings: neither the environment nor a file is read again.
            configured = Settings.model_validate_json(configuration.settings)
        except ValidationError as error:
            raise SettingsError(str(error)) from error
    return build_generation(
        registry, configured, configuration.overrides, number=configuration.generation, before=before
    )
