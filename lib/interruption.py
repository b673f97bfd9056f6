"""SIGINT and SIGTERM as a wish to stop, heard at the end of a step; a second one stops at once."""
import signal


class Interruption:
    """While entered, `signal` holds the number of the signal that came, else None."""

    def __init__(self):
        self.signal = None

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if self.signal is not None:
            raise SystemExit(128 + number)
        self.signal = number

    @property
    def exit_status(self):
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal


def leave_signals_to_parent(_worker):
    """For data workers: a signal may go to the whole group, but only the main process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
