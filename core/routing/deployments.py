"""Deployments: what plugins declare, as the configuration changes it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from core.api.errors import SpecError
from core.api.specs import BackendSpec, ModelSpec
from core.models import parse_source
from core.routing.words import how_to_get, list_not_loaded
from core.settings import BackendTable, DeploymentTable, LimitsTable, Settings
from core.words import describe, did_you_mean

__all__ = ["CONFIGURATION", "Declared", "Deployment", "Deployments", "build_deployments"]

CONFIGURATION = "configuration"
SpecT = TypeVar("SpecT")

_LIMITS = LimitsTable()
_NO_TABLE = DeploymentTable()
_NO_BACKEND_TABLE = BackendTable()
_SPEC_KEYS = DeploymentTable.model_fields.keys() & {field.name for field in dataclasses.fields(ModelSpec)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared(Generic[SpecT]):
    """A spec and who brought it: the plugin (name of its entry point) and its distribution."""

    spec: SpecT
    plugin: str
    distribution: str
    version: str

    @property
    def source(self) -> str:
        """For people: ``ai-gateway-llamacpp 0.1.0 (llamacpp)``."""
        return f"{self.distribution} {self.version} ({self.plugin})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """One model on one backend, ready to be run.

    Attributes:
        spec: as declaration and configuration left it.
        backend: of the plugin that runs it.
        settings: ``[backends.<name>]`` with the deployment's own ``settings`` on top, validated.
        python: interpreter for its replicas; None is the gateway's own.
        replicas: processes that serve it.
        idle_unload_s: unload after this many seconds without requests; None: never.
        declared_by: `Declared.source`, or ``configuration``.
        pinned: never unloaded to make room for another deployment.
        max_waiting: requests that may wait per replica.
        max_waiting_prompt_tokens: estimated prompt tokens that may wait per replica.
        disabled_because: why ``spec.enabled`` is false, where another table than its own decided so; else empty.
    """

    spec: ModelSpec
    backend: BackendSpec
    settings: BaseModel
    python: str | None
    replicas: int
    idle_unload_s: float | None
    declared_by: str
    pinned: bool = False
    max_waiting: int = _LIMITS.max_waiting
    max_waiting_prompt_tokens: int = _LIMITS.max_waiting_prompt_tokens
    disabled_because: str = ""

    @property
    def id(self) -> str:
        """``<model>@<backend>``."""
        return self.spec.deployment

    @property
    def on_demand(self) -> bool:
        """Whether a request may load it: so declared, or unloaded when idle."""
        return self.spec.load == "on_demand" or self.idle_unload_s is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployments:
    """What `build_deployments` found, and in what: ``backends``, ``models`` and ``settings`` are as they were given.

    Attributes:
        by_id: sorted by id.
        digests: of each, by id: hex SHA-256 of all that decides where its requests go and how its replicas run.
        left_out: declared ids whose backend is missing, and why.
        mistakes: of the configuration, one a line.
    """

    backends: Mapping[str, Declared[BackendSpec]]
    models: Sequence[Declared[ModelSpec]]
    settings: Settings
    by_id: Mapping[str, Deployment]
    digests: Mapping[str, str]
    left_out: Mapping[str, str]
    mistakes: tuple[str, ...]

    def still(
        self, backends: Mapping[str, Declared[BackendSpec]], models: Sequence[Declared[ModelSpec]], settings: Settings
    ) -> Mapping[str, Deployment]:
        """Return those that come out the same of what is given now: they are made of the very same objects."""
        then = self.settings
        if backends is not self.backends or models is not self.models or settings.limits != then.limits:
            return {}
        names = settings.backends.keys() | then.backends.keys()
        moved = {name for name in names if settings.backends.get(name) is not then.backends.get(name)}
        return {
            name: one
            for name, one in self.by_id.items()
            if settings.deployments.get(name) is then.deployments.get(name) and one.spec.backend not in moved
        }


def build_deployments(
    backends: Mapping[str, Declared[BackendSpec]],
    models: Sequence[Declared[ModelSpec]],
    settings: Settings,
    not_loaded: Mapping[str, str],
    *,
    before: Deployments | None = None,
) -> Deployments:
    """Apply ``[backends.*]`` and ``[deployments.*]`` to what is declared.

    ``before`` was built without a mistake; what is still the same is taken from it.
    """
    builder = _Builder(backends, models, settings, not_loaded)
    builder.check_backend_tables()
    still = before.still(backends, models, settings) if before else {}
    for name in sorted(builder.declared.keys() | settings.deployments.keys()):
        if before and name in still:
            builder.built[name], builder.digests[name] = still[name], before.digests[name]
        else:
            builder.add(name)
    return Deployments(
        backends=backends,
        models=models,
        settings=settings,
        by_id=builder.built,
        digests=builder.digests,
        left_out=builder.left_out,
        mistakes=tuple(dict.fromkeys(builder.mistakes)),  # a wrong [backends.x] is met by each of its deployments
    )


class _Builder:
    def __init__(
        self,
        backends: Mapping[str, Declared[BackendSpec]],
        models: Sequence[Declared[ModelSpec]],
        settings: Settings,
        not_loaded: Mapping[str, str],
    ) -> None:
        self.declared = {model.spec.deployment: model for model in models}
        self.built: dict[str, Deployment] = {}
        self.digests: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.mistakes: list[str] = []
        self._backends = backends
        self._settings = settings
        self._not_loaded = not_loaded

    def check_backend_tables(self) -> None:
        for name in sorted(self._settings.backends.keys() - self._backends.keys()):
            self.mistakes.append(f"[backends.{name}]: {self._missing(name)}")
        used = {name.partition("@")[2] for name in self.declared.keys() | self._settings.deployments.keys()}
        for name in sorted(self._settings.backends.keys() & (self._backends.keys() - used)):
            self._validated(self._backends[name].spec, self._settings.backends[name].plugin_settings, {}, "")

    def add(self, name: str) -> None:
        table = self._settings.deployments.get(name)
        where = f'[deployments."{name}"]'
        try:
            spec, declared_by = self._spec(name, table)
            if spec.source is not None:
                parse_source(spec.source)
        except (SpecError, _MistakeError) as error:
            if table is None:  # the plugin's mistake, not the operator's
                self.left_out[name] = f"{name}, declared by {self.declared[name].source}, is left out: {error}"
            else:
                self.mistakes.append(f"{where}: {error}")
            return
        backend = self._backends.get(spec.backend)
        if backend is None:
            why = self._missing(spec.backend)
            if table is not None:
                self.mistakes.append(f"{where}: {why}")
            self.left_out[name] = f"{name}, declared by {declared_by}, is left out: {why}"
            return
        table = table or _NO_TABLE
        backend_table = self._settings.backends.get(spec.backend) or _NO_BACKEND_TABLE
        limits = self._settings.limits
        because = "" if backend_table.enabled else f"the backend {spec.backend} is disabled"
        self.built[name] = built = Deployment(
            spec=dataclasses.replace(spec, enabled=False) if because else spec,
            backend=backend.spec,
            settings=self._validated(backend.spec, backend_table.plugin_settings, table.settings, where),
            python=backend_table.python,
            replicas=table.replicas,
            idle_unload_s=table.idle_unload_s,
            declared_by=declared_by,
            pinned=table.pinned,
            max_waiting=limits.max_waiting if table.max_waiting is None else table.max_waiting,
            max_waiting_prompt_tokens=table.max_waiting_prompt_tokens or limits.max_waiting_prompt_tokens,
            disabled_because=because,
        )
        self.digests[name] = _digest(built, backend.source)

    def _missing(self, backend: str) -> str:
        return f"backend {backend!r} is not there; {how_to_get(backend, self._backends, self._not_loaded)}"

    def _spec(self, name: str, table: DeploymentTable | None) -> tuple[ModelSpec, str]:
        changes: dict[str, Any] = {}
        if table is not None:
            changes = {key: value for key in _SPEC_KEYS if (value := getattr(table, key)) is not None}
        if declared := self.declared.get(name):
            return dataclasses.replace(declared.spec, **changes) if changes else declared.spec, declared.source
        model, at, backend = name.partition("@")
        if not at:
            msg = f'a deployment is written "<model>@<backend>"; {did_you_mean(name, self.declared)}'
            raise _MistakeError(msg)
        if "source" not in changes and backend in self._backends:
            hint = did_you_mean(name, self.declared) + list_not_loaded(self._not_loaded)
            msg = f"no plugin declares it, and a model of your own needs a source; {hint}"
            raise _MistakeError(msg)
        return ModelSpec(name=model, backend=backend, **changes), CONFIGURATION

    def _validated(self, backend: BackendSpec, common: dict[str, Any], own: dict[str, Any], where: str) -> BaseModel:
        """The deployment's own keys win, whole; a mistake is told of the table it stands in."""
        try:
            return backend.settings.model_validate(common | own)
        except ValidationError as error:
            told = describe(
                error,
                model=backend.settings,
                where=lambda path: f"{where} settings" if path and path[0] in own else f"[backends.{backend.name}]",
            )
            self.mistakes += told.splitlines()
            return backend.settings.model_construct()  # so that an alias that names the deployment is no mistake too


def _digest(deployment: Deployment, backend_source: str) -> str:
    content = {
        "spec": deployment.spec,
        "engine": deployment.backend.engine,
        "capabilities": sorted(deployment.backend.capabilities),
        "backend": backend_source,
        "settings": deployment.settings.model_dump(mode="json"),
        "python": deployment.python,
        "replicas": deployment.replicas,
        "idle_unload_s": deployment.idle_unload_s,
        "max_waiting": deployment.max_waiting,
        "max_waiting_prompt_tokens": deployment.max_waiting_prompt_tokens,
        "declared_by": deployment.declared_by,
    }
    # dataclasses.asdict and json would take half of the time that it takes to build a table.
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


class _MistakeError(ValueError):
    """One mistake of the configuration."""
