"""HTTP dialects: the JSON of an API <-> requests and events of the contract. Pure: no I/O, no Sanic."""

from __future__ import annotations
