"""The settings in effect, in a file of the gateway's private run directory.

The main process writes it before anybody reads it, the supervisor again with every reload. A process that is started
or restarted later begins with them, and not with a file that somebody may be editing.
"""

from __future__ import annotations

import os
from pathlib import Path

from core.settings.load import Settings

__all__ = ["hand_over", "handed_over"]

_NAME = "settings.json"


def hand_over(settings: Settings, run_dir: Path) -> None:
    """Write the settings for processes that start from now on; only their owner can read the file.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    path = run_dir / _NAME
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(settings.model_dump_json())
    draft.replace(path)


def handed_over(run_dir: Path) -> Settings | None:
    """Return the settings in effect; None if nobody has written any."""
    try:
        text = (run_dir / _NAME).read_text()
    except OSError:
        return None
    # Values, not a source of settings: neither the environment nor a file is read again.
    return Settings.model_validate_json(text)
