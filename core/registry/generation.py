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
    """

    number: int
    configured: Settings
    overrides: Overrides
    settings: Settings
    table: Table

    def configuration(self) -> Configuration:
        """Return what other processes build the same generation of, with `receive_generation`."""
        settings = self.configured.model_dump_json().encode()
        return Configuration(generation=self.number, settings=settings, overrides=self.overrides)


def build_generation(
    registry: Registry, configured: Settings, overrides: Overrides | None = None, *, number: int = 0
) -> Generation:
    """Build a generation; the same in every process with the same plugins.

    Raises:
        SettingsError: settings and overrides make no table; all mistakes, one a line.
    """
    overrides = overrides or Overrides()
    settings = effective(configured, overrides)
    return Generation(
        number=number,
        configured=configured,
        overrides=overrides,
        settings=settings,
        table=build_table(registry, settings),
    )


def receive_generation(registry: Registry, configuration: Configuration) -> Generation:
    """Build the generation that the supervisor runs by.

    Raises:
        SettingsError: the plugins of this process make no table of it.
    """
    try:
        # Values, not a source of settings: neither the environment nor a file is read again.
        configured = Settings.model_validate_json(configuration.settings)
    except ValidationError as error:
        raise SettingsError(str(error)) from error
    return build_generation(registry, configured, configuration.overrides, number=configuration.generation)
