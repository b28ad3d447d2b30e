"""A program that is run to its end and tells how it goes; it ends when this process does not wait for it any more."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["run", "tail"]

_TAIL_BYTES = 65_536


def run(
    command: Sequence[str],
    log: Path,
    hear: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    *,
    keep_output: bool = True,
) -> int:
    """Run a program, and return its exit status.

    Args:
        command: program and arguments.
        log: file that its errors are added to, and its output if ``keep_output``.
        hear: called with each line of its output.
        environment: its variables; None: as here.
        keep_output: see ``log``.
    """
    with log.open("ab") as kept:
        # Its input ends when this process does, which it may wait for.
        process = subprocess.Popen(  # noqa: S603 - our own words and the names of files
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=kept, env=environment
        )
        with process:
            try:
                for line in process.stdout or ():
                    if keep_output:
                        kept.write(line)
                        kept.flush()
                    hear(line.decode(errors="replace").rstrip())
                process.wait()  # before its input is closed: that would end it
            except BaseException:
                process.kill()
                raise
    return process.returncode


def tail(log: Path) -> list[str]:
    """Return the last lines of a log file, without blank ones."""
    with log.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - _TAIL_BYTES))
        return [line.strip() for line in opened.read().decode(errors="replace").splitlines() if line.strip()]
