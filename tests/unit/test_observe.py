"""The log observer."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from core.api import ReplicaChange, RequestRecord
from core.observe import LogObserver, configure_logging


def record(**fields: object) -> RequestRecord:
    return RequestRecord(
        **{"id": "1", "name": "gpt-4", "task": "chat", "replica": "m@b#0", "outcome": "stop", **fields}
    )


def test_one_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """With every field that has a value."""
    with caplog.at_level(logging.DEBUG):
        LogObserver().request_finished(record(ttft_s=0.25, completion_tokens=7))

    expected = (
        "id='1' name='gpt-4' task='chat' replica='m@b#0' outcome='stop' status=200 attempts=1 ttft_s=0.2500 "
        "duration_s=0.0000 prompt_tokens=0 completion_tokens=7 cached_tokens=0"
    )
    assert caplog.record_tuples == [("gateway.request", logging.DEBUG, expected)]


def test_a_client_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """The name is what it wrote, line ends and escape codes included."""
    with caplog.at_level(logging.DEBUG):
        LogObserver().request_finished(record(name="x\nid='2' \x1b[2J\u2028", replica=None))

    assert r"name=\"x\nid='2' \x1b[2J\u2028\"".replace('\\"', '"') in caplog.messages[0]
    assert "replica" not in caplog.messages[0]


@pytest.mark.parametrize(("status", "level"), [(404, logging.INFO), (502, logging.WARNING)])
def test_what_went_wrong_on_our_side_is_a_warning(caplog: pytest.LogCaptureFixture, status: int, level: int) -> None:
    """A client's mistakes are not."""
    with caplog.at_level(logging.INFO):
        LogObserver().request_finished(record(status=status, outcome="error"))

    assert caplog.records[0].levelno == level


def test_one_line_a_change(caplog: pytest.LogCaptureFixture) -> None:
    """With its reason."""
    with caplog.at_level(logging.DEBUG):
        LogObserver().replica_changed(ReplicaChange(replica="m@b#0", before="starting", after="ready"))
        LogObserver().replica_changed(
            ReplicaChange(replica="m@b#0", before="ready", after="failed", reason="SIGKILL, 5 times")
        )

    assert caplog.messages == ["m@b#0 starting -> ready", "m@b#0 ready -> failed: SIGKILL, 5 times"]


def test_a_traceback_is_plain_under_sanics_command_line() -> None:
    """Which has every `logging.StreamHandler` draw boxes with pictures in them, wherever its output goes."""
    program = """
import logging
import sanic.__main__
from core.observe import configure_logging

configure_logging("INFO")
try:
    {}["x"]
except KeyError:
    logging.getLogger("gateway").exception("it failed")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    lines = done.stderr.splitlines()
    assert lines[0].endswith("ERROR gateway: it failed")
    assert (lines[1], lines[-1]) == ("Traceback (most recent call last):", "KeyError: 'x'")
    assert done.stderr.isascii()


def test_configuring_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Sanic's processes import the application more than once."""
    loggers = [logging.getLogger(name) for name in ("gateway", "core")]
    before = [(one, one.handlers, one.level, one.propagate) for one in loggers]
    try:
        for _ in range(2):
            configure_logging("INFO")
        logging.getLogger("gateway.x").info("once")
        logging.getLogger("core.x").debug("never")
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)

    assert capsys.readouterr().err.count("once") == 1
    assert "never" not in capsys.readouterr().err
