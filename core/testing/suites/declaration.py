"""The plugin's declarations, before any model is loaded."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import entry_points

from core.api.hooks import ENTRY_POINT_GROUP
from core.testing.suites.base import Suite

__all__ = ["RUNTIMES", "DeclarationSuite"]

RUNTIMES = (
    "jax",
    "llama_cpp",
    "mlx",
    "numpy",
    "onnxruntime",
    "onnxruntime_genai",
    "ray",
    "sanic",
    "tensorflow",
    "torch",
    "transformers",
    "vllm",
    "xllamacpp",
)
"""Modules that no declaration may import: they are heavy, or may be missing where the gateway runs."""


class DeclarationSuite(Suite):
    """What the registry and the operator see."""

    async def test_settings_can_be_shown(self) -> None:
        """The settings model renders as a JSON schema, every key says what it is, and defaults suffice."""
        schema = self.backend.settings.model_json_schema()
        assert json.loads(json.dumps(schema)) == schema, "the settings' JSON schema must survive JSON"
        silent = [key for key, field in schema.get("properties", {}).items() if not field.get("description")]
        assert not silent, f"settings without a description: {silent}"
        assert self.backend.settings(**self.settings), "the settings must be valid without any key of the operator"

    async def test_import_pulls_in_no_runtime(self) -> None:
        """Importing what the plugin declares imports neither its engine nor any runtime."""
        package = self.backend.engine.partition(".")[0]
        modules = [entry.module for entry in entry_points(group=ENTRY_POINT_GROUP)]
        plugins = [module for module in modules if module.partition(".")[0] == package]
        assert plugins, f"no entry point in the group {ENTRY_POINT_GROUP!r} names a module of {package!r}"
        forbidden = {*RUNTIMES, self.backend.engine.partition(":")[0]}
        program = (
            f"import importlib, sys\nfor name in {plugins!r}: importlib.import_module(name)\n"
            f"print(sorted(set(sys.modules) & {forbidden!r}))"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert process.returncode == 0, f"{plugins} cannot be imported"
        found = output.decode().strip()
        assert found == "[]", (
            f"importing the plugin's declarations must not import {found}: name the engine as a string"
        )
