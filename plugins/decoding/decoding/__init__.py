"""What lies between tokens and text, for engines driven from Python; knows neither torch nor ONNX Runtime."""

from __future__ import annotations

import os

# Where there is no torch, transformers would say at every start that its models need it; an engine has its own.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
