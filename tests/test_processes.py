"""A function in a process of its own: what it sends, how it fails, how it is stopped, and how its death is told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from ptyint.errors import BundleError, ChildError
from ptyint.ptychodus.processes import stream

Send = Callable[[Any], None]


def count(send: Send, n: int) -> None:
    for i in range(n):
        send(i)


def raise_error(send: Send, error: Exception) -> None:
    send("before")
    raise error


class ForeignError(Exception):
    """Of a type that the parent does not know."""


def raise_foreign(send: Send) -> None:
    raise ForeignError("out of order")


def die(send: Send, how: int) -> None:
    send(os.getpid())
    os.kill(os.getpid(), how)
    time.sleep(60)


def leave(send: Send, code: int) -> None:
    os._exit(code)


def hang(send: Send) -> None:
    send(os.getpid())
    time.sleep(600)


def test_what_is_sent_arrives_in_order() -> None:
    assert list(stream(count, 3)) == [0, 1, 2]


def test_values_arrive_while_the_process_goes_on() -> None:
    values = stream(hang)
    child = psutil.Process(next(values))
    assert child.is_running()
    values.close()
    assert not child.is_running()


@pytest.mark.parametrize(
    "error", [BundleError("no such bundle"), ValueError("no such value"), MemoryError("no memory")]
)
def test_an_error_arrives_as_it_was(error: Exception) -> None:
    values = stream(raise_error, error)
    assert next(values) == "before"
    with pytest.raises(type(error), match=str(error)):
        next(values)


def test_an_error_of_another_type_arrives_in_words() -> None:
    with pytest.raises(RuntimeError, match="ForeignError: out of order"):
        list(stream(raise_foreign))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (signal.SIGKILL, "was killed .SIGKILL.: most likely the memory ran out"),
        (signal.SIGSEGV, "was ended by SIGSEGV"),
    ],
)
def test_a_death_is_told_at_once(how: int, says: str) -> None:
    values = stream(die, how)
    child = next(values)
    begun = time.monotonic()
    with pytest.raises(ChildError, match=says):
        next(values)
    assert time.monotonic() - begun < 5 and not psutil.pid_exists(child)


def test_an_exit_before_the_end_is_told() -> None:
    with pytest.raises(ChildError, match="ended with exit code 3 before it was done"):
        list(stream(leave, 3))


def test_it_stops_when_asked() -> None:
    asked: list[float] = []
    values = stream(hang, should_stop=lambda: bool(asked))
    child = psutil.Process(next(values))
    asked.append(time.monotonic())
    assert list(values) == []
    assert time.monotonic() - asked[0] < 5 and not child.is_running()
