"""Ctrl-C that waits for the end of the step."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second one acts at once.

    Where a launcher passes signals on, one Ctrl-C can arrive twice: `patient` takes every one for
    the first, and the launcher kills what does not end in time.

    Outside the main thread, where Python allows no handlers, signals stay as they are.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.requested, self._patient = False, patient
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in SIGNALS}
        return self

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self._patient:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *_: object) -> None:
        self._restore()
