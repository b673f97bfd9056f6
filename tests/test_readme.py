"""The README's commands: every one is parsed by the script that it calls, every file that it names is there."""
import re
import shlex
from pathlib import Path
from string import Template

import pytest

import convert
from lib import options
from utils import (
    benchmark,
    create_lmdb,
    crop_800k,
    export_weights,
    plot_training,
    render_words,
    split_words,
    training_cost,
)

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / 'README.md').read_text(encoding='utf-8')
PARSERS = {
    'main.py': options.parse_args, 'convert.py': convert.parse_args, 'utils/crop_800k.py': crop_800k.parse_args,
    'utils/create_lmdb.py': create_lmdb.parse_args, 'utils/render_words.py': render_words.parse_args,
    'utils.export_weights': export_weights.parse_args, 'utils.benchmark': benchmark.parse_args,
    'utils.plot_training': plot_training.parse_args, 'utils.split_words': split_words.parse_args,
    'utils.training_cost': training_cost.parse_args,
}
PUBLISHED = [
    "python3 utils/crop_800k.py --gt_path='./SynthText/gt.mat' --out_path='./' --syntxt_path='./SynthText'",
    'python3 utils/create_lmdb.py',
    "python3 main.py --train_data_dir='./dataset/syn800k_hr' --val_data_dir='./dataset/ic15_1811' --width=128 "
    "--height=32 --epochs=10 --logs_dir='./logs_2019'",
    'sh test.sh',
    "python3 convert.py --image_path='./' --width=128 --height=32 --ds_scale=4",
]


def commands():
    """Every line of the README's shell blocks, continuation lines joined, variables filled in, parted at &&."""
    blocks = re.findall(r'```sh\n(.*?)```', TEXT, flags=re.DOTALL)
    found, variables = [], {}
    for line in '\n'.join(blocks).replace('\\\n', ' ').splitlines():
        if line.strip() and not line.startswith('#'):
            line = Template(line).substitute(variables)  # KeyError: a variable that no line above sets
            assignment = re.fullmatch(r'([A-Z]+)="(.*)"', line)
            if assignment:
                variables[assignment[1]] = assignment[2]
            else:
                found += [part.strip() for part in line.split('&&')]
    return found


@pytest.mark.parametrize('command', PUBLISHED)
def test_published_commands_stand_in_the_readme(command):
    assert command in commands()


@pytest.mark.parametrize('command', sorted(set(commands())))
def test_commands_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('SynthText/gt.mat', 'syntax_crop.odgt', 'dataset/lists/train.odgt', 'dataset/lists/val.odgt'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)  # the tools look for their input first
        (tmp_path / name).touch()
    words = shlex.split(command)
    while words and not (words[0] in PARSERS or words[0].endswith('.sh')):
        words.pop(0)  # the interpreter, torchrun and its flags
    if words and words[0] in PARSERS:
        assert PARSERS[words[0]](words[1:]) is not None
    elif words:
        assert (ROOT / words[0]).exists()
    else:
        others = r'(python3 -m venv|\.venv/bin/(pip|python -m pytest)|xargs apt-get|git show|cp -r|awk|pip)'
        assert re.match(others, command), command


def test_pictures_and_links_exist():
    for target in re.findall(r'\]\(([^)#]+)\)', TEXT):
        assert target.startswith('http') or (ROOT / target).exists(), target
