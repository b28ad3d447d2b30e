"""The virtual environment that exports run in, made once a machine: what exports needs torch, what serves does not."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from core.api import PreparationError, PreparationProgress
from onnx_backend.child import run, tail
from onnx_backend.made_once import make_once

__all__ = ["export_requirements", "get_environment", "python_of"]

_DISTRIBUTION = "ai-gateway-onnx"
_TAKING = re.compile(r"(?:Collecting |Processing (?:\S*/)?)(?P<name>[A-Za-z0-9][\w.]*(?:-[A-Za-z][\w.]*)*)")
_PIP_OPTIONS = ("--no-compile", "--no-input", "--no-user", "--progress-bar=off", "--disable-pip-version-check")
_INSTALLING = "Installing collected packages: "
# They would install elsewhere than into the environment.
_MISLEADING = frozenset({"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_DRY_RUN"})
_ELSEWHERE = "or export on another machine and set source to the folder"


@cache
def export_requirements() -> tuple[str, ...]:
    """Return what the extra ``export`` of this distribution asks for.

    Raises:
        PreparationError: it is not installed as a distribution.
    """
    try:
        told = requires(_DISTRIBUTION) or []
    except PackageNotFoundError as error:
        msg = f"{_DISTRIBUTION} is not installed with its metadata: install it with pip."
        raise PreparationError(msg) from error
    found = [Requirement(one) for one in told]
    wanted = [one for one in found if one.marker and _is_of_export(one)]
    return tuple(sorted(f"{one.name}{one.specifier}" for one in wanted))


def _is_of_export(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": "export"}) and not marker.evaluate({"extra": ""})


def python_of(environment: Path) -> Path:
    """Return its interpreter."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def get_environment(root: Path, report: PreparationProgress) -> Path:
    """Return an environment with the requirements; it is made at the first call, and again if it is broken.

    Args:
        root: where environments are kept, one for each set of requirements and Python.
        report: told of what is being installed.

    Raises:
        PreparationError: it cannot be made.
    """
    requirements = export_requirements()
    told = repr((requirements, sys.version_info[:2], sysconfig.get_platform(), sys.implementation.cache_tag))
    folder = root / hashlib.sha256(told.encode()).hexdigest()[:16]
    log = root / f"{folder.name}.log"
    make_once(
        folder,
        is_made=lambda: _works(folder),
        make=lambda made: _make(made, requirements, log, report),
        wait=lambda: report("waiting for another process that makes the environment", None),
    )
    return folder


def _works(environment: Path) -> bool:
    """Whether it still runs: the Python that it was made with may have gone."""
    python = python_of(environment)
    if not python.exists():
        return False
    tried = subprocess.run([python, "-I", "-c", ""], capture_output=True, check=False)  # noqa: S603 - our own words
    return tried.returncode == 0


def _make(folder: Path, requirements: Sequence[str], log: Path, report: PreparationProgress) -> None:
    report("making an environment to export in", None)
    log.unlink(missing_ok=True)
    if run([sys.executable, "-I", "-m", "venv", str(folder)], log, lambda _: None) != 0:
        raise _no_venv(log)
    wanted = {canonicalize_name(Requirement(one).name) for one in requirements}
    cuda_told = False

    def hear(line: str) -> None:
        nonlocal cuda_told
        if found := _TAKING.match(line):
            name = canonicalize_name(found["name"])
            if name in wanted:
                report(f"fetching {name}", None)
            elif name.startswith("nvidia-") and not cuda_told:
                cuda_told = True
                report("fetching CUDA for torch: gigabytes, which an index of CPU wheels would save", None)
        elif line.startswith(_INSTALLING):
            report(f"installing {len(line.removeprefix(_INSTALLING).split(','))} packages", None)

    command = [str(python_of(folder)), "-I", "-m", "pip", "install", *_PIP_OPTIONS, *requirements]
    variables = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    if run(command, log, hear, variables) != 0:
        raise _not_installed(log)


def _no_venv(log: Path) -> PreparationError:
    said = tail(log)
    if any("ensurepip" in line for line in said):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return PreparationError(
            f"{sys.executable} cannot make virtual environments, for which its module ensurepip is missing: "
            f"install it (Debian and Ubuntu: apt install python{version}-venv), {_ELSEWHERE}."
        )
    return PreparationError(f"{sys.executable} could not make a virtual environment: {_last(said)}; see {log}.")


def _not_installed(log: Path) -> PreparationError:
    said = tail(log)
    if any("No space left on device" in line for line in said):
        remedy = "make room (it takes about 2 GB), or set weights.cache_dir to a folder on a larger disk"
    else:
        remedy = f"check the network and pip's settings (PIP_INDEX_URL, PIP_PROXY), {_ELSEWHERE}"
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    return PreparationError(f"pip could not install what exports models: {_last(errors or said)}; {remedy}; see {log}.")


def _last(lines: Sequence[str]) -> str:
    return lines[-1].rstrip(".") if lines else "it said nothing"
