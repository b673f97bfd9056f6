"""How a command ends, and what it does when its output cannot be written: work already done is never lost."""
import errno
import os
import signal
import sys


class Output:
    """A text stream whose errors end nothing: once it cannot be written, the rest goes to the null device.

    A closed pipe, as after `head`, is no error. Any other error is printed to stderr once and sets `failed`.
    """

    def __init__(self, stream):
        self._stream, self.failed = stream, False

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self):
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())  # takes what the stream still has in its buffer too
        os.close(null)
        if error.errno != errno.EPIPE:
            self.failed = True
            print(f'{self._stream.name}: {error.strerror}; the rest of the output is lost', file=sys.stderr)


def printable(name):
    """A name or path as a part of a line: quoted where it holds what does not print."""
    return str(name) if str(name).isprintable() else repr(str(name))


def first_five(names):
    """The first five names, printable, and whether there are more, as a part of a line."""
    return ', '.join([*map(printable, names[:5]), *(['...'] if len(names) > 5 else [])])


def open_output():
    """Make stdout and stderr take every character, and keep going where they are missing, closed or full."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets that number: no file that is opened later may
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if isinstance(stream, Output):  # the caller's, who asks it for `failed`
            continue
        if stream is None:
            stream = open(os.devnull, 'w')  # noqa: SIM115 (open until the end)
        stream.reconfigure(errors='backslashreplace')
        setattr(sys, name, Output(stream))


def run_command(main):
    """Run a command's main() and return its exit status, that of Ctrl-C included; 1 where its output was cut short."""
    open_output()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that what was begun is removed
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.stdout.flush()
    sys.stderr.flush()
    return status or int(sys.stdout.failed)
