"""Commands whose output nobody takes, that is closed, or that lacks letters: they do their work all the same."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUICK = ['main.py', 'convert.py', 'utils/create_lmdb.py']  # they answer before numpy, too
COMMANDS = QUICK + sorted({f'utils/{path.name}' for path in ROOT.glob('utils/[a-z]*.py')} - set(QUICK))
WORK = """
import sys
sys.path.insert(0, {root!r})
from lib.runtime.console import run_command

def main():
    for _ in range({lines}):
        print('a line of \u5b57')
        print('a line of \u5b57', file=sys.stderr)
    open({done!r}, 'w').write('done')
    return {status}

sys.exit(run_command(main))
"""


@pytest.fixture
def work(tmp_path):
    """work(redirection, ...) -> (exit status, stdout, stderr, whether the work was done) of a command that prints.

    Done is what it writes into a file, which gets the number of a stdout that is closed: no line may follow there.
    """
    def start(redirection='', lines=10_000, status=0, **environment):
        script, done = tmp_path / 'work.py', tmp_path / 'done'
        script.write_text(WORK.format(root=str(ROOT), lines=lines, done=str(done), status=status), encoding='utf-8')
        done.unlink(missing_ok=True)
        run = subprocess.run(['bash', '-c', f'set -o pipefail; "$0" "$1" {redirection}', sys.executable, script],
                             capture_output=True, timeout=60, env={**os.environ, **environment})
        return run.returncode, run.stdout, run.stderr.decode(), done.exists() and done.read_text() == 'done'
    return start


@pytest.mark.parametrize(('redirection', 'status'), [
    ('| true', 0), ('| true', 3), ('2>&1 | true', 0), ('2> >(true)', 0), ('>&-', 0), ('>&-', 3), ('2>&-', 0),
    ('>&- 2>&-', 0), ('<&- >&-', 0)])
def test_output_that_nobody_takes(work, redirection, status):
    code, _, err, done = work(redirection, status=status)
    assert (code, done) == (status, True)
    assert not [word for word in ('Traceback', 'Exception', 'Error') if word in err]


def test_a_full_disk_is_told_and_ends_nothing(work):
    code, _, err, done = work('>/dev/full')
    assert (code, done) == (1, True)
    assert err.count('No space left on device; the rest of the output is lost') == 1


def test_a_full_disk_is_told_by_a_command_that_opened_its_output_before(tmp_path):
    """As main.py does, for the errors of its flags."""
    (tmp_path / 'work.py').write_text(
        f'import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom lib.runtime.console import open_output, run_command\n'
        'open_output()\nsys.exit(run_command(lambda: print("a line")))\n')
    assert subprocess.run(f'{sys.executable} {tmp_path}/work.py > /dev/full', shell=True).returncode == 1


def test_an_encoding_that_lacks_a_letter(work):
    code, out, err, done = work(lines=1, PYTHONIOENCODING='ascii')
    assert (code, out, err, done) == (0, b'a line of \\u5b57\n', 'a line of \\u5b57\n', True)


SAVING = """
import sys, time
sys.path.insert(0, {root!r})
from lib.runtime.console import run_command
from lib.runtime.files import written_beside

def main():
    with written_beside({path!r}) as beside:
        beside.write_text('half')
        print('begun', flush=True)
        time.sleep(60)

sys.exit(run_command(main))
"""


def test_sigterm_leaves_no_unfinished_file(tmp_path):
    command = [sys.executable, '-c', SAVING.format(root=str(ROOT), path=str(tmp_path / 'result.png'))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b'begun\n' and len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30) == (b'', b'') and process.returncode == 143
    assert not list(tmp_path.iterdir())


HELP = """
import os, runpy, sys
vars(os).pop('sched_getaffinity', None)  # macOS
sys.modules['fcntl'] = sys.modules['resource'] = None  # Windows
sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'numpy', 'scipy')))  # what takes seconds
for command in {commands!r}:
    if command not in {quick!r} and sys.modules.get('numpy', 0) is None:
        del sys.modules['numpy'], sys.modules['scipy']
    for start, flag in (('file', '--help'), ('module', '--help'), ('module', '--no_such_flag')):
        sys.argv[1:] = [flag]
        try:
            if start == 'file':
                sys.path[0] = os.path.dirname(os.path.join({root!r}, command))
                runpy.run_path(os.path.join({root!r}, command), run_name='__main__')
            else:
                sys.path[0] = {root!r}
                runpy.run_module(command[:-3].replace('/', '.'), run_name='__main__', alter_sys=True)
        except SystemExit as stop:
            print(start, command, flag, stop.code)
"""


def test_every_command_starts_as_a_file_and_as_a_module_from_anywhere(tmp_path):
    """Without docstrings and what Windows or macOS lack, and answers --help and wrong flags before the slow imports."""
    script = HELP.format(commands=COMMANDS, quick=QUICK, root=str(ROOT))
    run = subprocess.run([sys.executable, '-OO', '-c', script], cwd=tmp_path, capture_output=True, text=True)
    ends = [line for line in run.stdout.splitlines() if line.startswith(('file ', 'module '))]
    assert ends == [f'{start} {command} {end}' for command in COMMANDS for start, end in (
        ('file', '--help 0'), ('module', '--help 0'), ('module', '--no_such_flag 2'))], run.stderr
    assert run.returncode == 0 and 'Traceback' not in run.stderr


def test_every_command_is_run_as_one():
    for command in COMMANDS:
        assert 'sys.exit(run_command(main))' in (ROOT / command).read_text(encoding='utf-8'), command
