"""Turn SIGINT and SIGTERM into a flag that is checked after each step; a second signal stops at once."""
import contextlib
import signal

from lib.runtime.system import end_with_parent


class Interrupted(BaseException):
    """Ends a run after a signal; a BaseException, so that `except Exception` does not catch it."""

    def __init__(self, number):
        super().__init__(f'stopped by {signal.Signals(number).name}')
        self.exit_status = 128 + number  # 130 for SIGINT, 143 for SIGTERM


class Interruption:
    """While entered, `signal` holds the number of the signal that came, else None."""

    def __init__(self):
        self.signal = None
        self._at_once = False

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        first, self.signal = self.signal is None, number
        if self._at_once or not first:
            raise Interrupted(number)

    @contextlib.contextmanager
    def at_once(self):
        """While entered, the first signal already stops at once: for work that a resumed run repeats."""
        self._at_once = True
        try:
            if self.signal is not None:
                raise Interrupted(self.signal)
            yield
        finally:
            self._at_once = False


def follow_main_process(_worker):
    """For data workers: end with the main process, and only with it.

    A signal may go to the whole group, but the main process decides when to stop. And where Python starts workers from
    a server of its own, torch watches that instead of the main process, and the workers of a killed run would stay.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
