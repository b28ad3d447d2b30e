"""Exceptions that cross the border between the core and a plugin."""

from __future__ import annotations

__all__ = ["EngineBrokenError", "EngineError", "EngineLoadError", "PreparationError", "RequestError", "SpecError"]


class SpecError(ValueError):
    """A declaration (spec) is wrong; the message names the field and the remedy."""


class EngineLoadError(RuntimeError):
    """An engine cannot load its model.

    Attributes:
        permanent: True when trying again cannot help (a missing file, an unsupported
            architecture, a device that is not there): the supervisor then does not retry.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class PreparationError(RuntimeError):
    """Weights cannot be made into what an engine loads; the message is what the operator reads."""


class EngineError(RuntimeError):
    """The engine failed while it served one request; the request may be tried elsewhere."""


class EngineBrokenError(EngineError):
    """The engine can serve nothing any more: its device is lost, or what it keeps cannot be trusted.

    The host ends the replica, and the supervisor starts a new one. The message is what operators read.
    """


class RequestError(ValueError):
    """The request itself is at fault (HTTP 400); trying another replica cannot help.

    Attributes:
        param: the request field at fault, as the client spelt it (``messages``, ``tools``), or None.
        code: a stable machine-readable code (``context_length_exceeded``), or None.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
