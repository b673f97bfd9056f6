"""Every command in a Markdown file or a recipe is parsed by the script that it calls; the published ones run."""
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from test_crop_800k import box, make_image, make_set

import convert
import main
from lib import options
from utils import create_lmdb, crop_800k

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for names in ('*.md', 'docs/**/*.md', 'weights/*.md', 'recipes/*.md') for path in ROOT.glob(names))
UTILS = {path.stem: import_module(f'utils.{path.stem}').parse_args for path in ROOT.glob('utils/[a-z]*.py')}
PARSERS = {'main.py': options.parse_args, 'convert.py': convert.parse_args,
           **{form.format(name): parse for name, parse in UTILS.items() for form in ('utils/{}.py', 'utils.{}')}}
OTHERS = (r'cat|grep|python3 -m venv|\.venv/bin/(pip|python -m pytest)|pip install|printf|xargs apt-get|set -eu|'
          r'render\(\) \{|\}$')
CROP, PACK, TRAIN, TEST, CONVERT = PUBLISHED = [
    "python3 utils/crop_800k.py --gt_path='./SynthText/gt.mat' --out_path='./' --syntxt_path='./SynthText'",
    'python3 utils/create_lmdb.py',
    "python3 main.py --train_data_dir='./dataset/syn800k_hr' --val_data_dir='./dataset/ic15_1811' --width=128 "
    "--height=32 --epochs=10 --logs_dir='./logs_2019'",
    'sh test.sh',
    "python3 convert.py --image_path='./' --width=128 --height=32 --ds_scale=4",
]


def lines_of(text):
    """The commands in shell text, continuation lines joined and && separated."""
    lines = [line.strip() for line in text.replace('\\\n', ' ').splitlines()]
    return [part.strip() for line in lines if line and not line.startswith('#') for part in line.split('&&')]


def commands():
    """(file, command) of every line in the shell blocks of the Markdown files and in the recipes."""
    found = [(page.relative_to(ROOT), command) for page in PAGES
             for block in re.findall(r'```sh\n(.*?)```', page.read_text(encoding='utf-8'), flags=re.DOTALL)
             for command in lines_of(block)]
    for recipe in sorted(ROOT.glob('recipes/*')):
        text = recipe.read_text(encoding='utf-8').rpartition('\n}\n')[2]  # behind the functions
        lines = lines_of(text) if recipe.suffix == '.sh' else [f'python3 main.py @{recipe.relative_to(ROOT)}']
        found += [(recipe.relative_to(ROOT), line) for line in lines]
    return found


@pytest.mark.parametrize('command', PUBLISHED)
def test_published_commands_stand_in_the_readme(command):
    assert (Path('README.md'), command) in commands()


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with what the commands look for first."""
    folder = tmp_path_factory.mktemp('place')
    shutil.copytree(ROOT / 'recipes', folder / 'recipes')
    for name in ('SynthText/gt.mat', 'syntax_crop.odgt', 'syntax_crop_128x32.odgt', 'dataset/lists/train.odgt',
                 'dataset/lists/val.odgt', 'dataset/lists_new/train.odgt', 'dataset/lists_new/val.odgt',
                 'dataset/lists/all.odgt', 'real/textzoom_train2/pairs_train.txt',
                 'dataset/own_lists/train.odgt', 'dataset/own_lists/val.odgt',
                 'dataset/ic13_1015/data.mdb', 'ic13/gt.txt', 'word.png', 'photos/a.png', 'photo.jpg', 'boxes.txt',
                 'demo_pics/words/gt.txt'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / 'digits.txt').write_text('0123456789')
    return folder


@pytest.mark.parametrize('command', sorted({command for _, command in commands()}))
def test_commands_are_understood(command, place, monkeypatch):
    monkeypatch.chdir(place)
    words = shlex.split(command)
    functions = {'render': 'utils/render_words.py', 'pack': 'utils/create_lmdb.py', 'split_words': 'utils.split_words'}
    words[0] = functions.get(words[0], words[0])  # those of recipes/data.sh
    while words and not (words[0] in PARSERS or words[0].endswith('.sh')):
        words.pop(0)  # the interpreter, torchrun and its flags
    if words and words[0] in PARSERS:
        words = [word for word in words if word not in ('$@', '/usr/share/wallpapers', '/usr/share/backgrounds',
                                                        '--background_dir')]
        assert PARSERS[words[0]](words[1:]) is not None
    elif words:
        assert (ROOT / words[0]).exists()
    else:
        assert re.match(OTHERS, command), command


def test_published_commands_run(tmp_path, tiny_lmdb, tiny_aster, monkeypatch, capsys):
    """All five, in their order, as they stand; the flags behind them make the training small."""
    monkeypatch.chdir(tmp_path)
    make_image(tmp_path / 'SynthText' / '1' / 'a.jpg', (300, 100))
    make_set(tmp_path / 'SynthText', [('1/a.jpg', [box(5, 5, 140, 45), box(150, 50, 290, 95)], ['sun Moon'])])
    assert crop_800k.main([*shlex.split(CROP)[2:], '--workers=1']) == 0
    assert create_lmdb.main([*shlex.split(PACK)[2:], '--workers=1']) == 0
    assert './dataset/syn800k: 2 written, 0 skipped' in capsys.readouterr().out
    Path('dataset/syn800k').rename('dataset/syn800k_hr')
    tiny_lmdb('dataset/ic15_1811', ('rain',), size=(128, 32))

    recognizer = f'--aster_path={tiny_aster}'
    small = ['--blocks=1', '--maps=8', '--disc_maps=2', '--batch_size=2', '--workers=0', '--max_steps=2', recognizer]
    args = options.parse_args(shlex.split(TRAIN)[2:])
    assert (args.arch, args.ds_scale, args.blocks, args.epochs, args.lr_sizes) == ('textsr', 4, 16, 10, [(8, 32)])
    assert main.main([*shlex.split(TRAIN)[2:], *small]) == 0
    assert len(Path('logs_2019/log.txt').read_text().splitlines()) == 2, 'epochs of a step each'

    command = ['sh', str(ROOT / 'test.sh'), *shlex.split(TEST)[2:], recognizer, '--methods', 'bicubic', '--workers=0',
               '--device=cpu']
    tested = subprocess.run(command, capture_output=True, text=True, env={
        'PATH': '/usr/bin:/bin', 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1'})
    assert tested.returncode == 0 and '| ic15 | 1 | bicubic |' in tested.stdout and '| svt | - |' in tested.stdout

    make_image(tmp_path / 'word.png', (64, 16))
    assert convert.main([*shlex.split(CONVERT)[2:], recognizer]) == 0
    assert '| TextSR |' in capsys.readouterr().out


def anchors(page):
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pictures_and_links_exist(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text(encoding='utf-8')):
        if target.startswith('http'):
            continue
        name, _, anchor = target.partition('#')
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    """Names in backquotes that begin with a folder of the project."""
    folders = r'(?:lib|utils|recipes|weights|tests|demo_pics|docs)'
    for name in re.findall(rf'`({folders}/[\w./{{}}-]*)`', page.read_text(encoding='utf-8')):
        assert (ROOT / name).exists(), name


def test_figures_of_the_front_page_are_those_of_the_results():
    section = (ROOT / 'README.md').read_text(encoding='utf-8').partition('\n## Results\n')[2].partition('\n## ')[0]
    figures, measured = (set(re.findall(r'\d+\.\d+', text)) for text in (
        section, (ROOT / 'docs' / 'results.md').read_text(encoding='utf-8')))
    assert figures and figures <= measured


def test_the_front_page_is_one_page():
    text = (ROOT / 'README.md').read_bytes()
    assert len(text) <= 12_000 and text.count(b'\n') <= 200


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page):
    prose = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    assert not [line for line in prose.splitlines() if len(line) > 120 and not line.startswith('|')]
