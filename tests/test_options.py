import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from helpers import status_of

import main
from lib.build import build_recognizer
from lib.checkpoint import load_aster, load_checkpoint, save_checkpoint
from lib.models.generator import Generator
from lib.options import ASTER_PATH, SRRESNET_PATH, TERMS, build_parser, parse_args

PROJECT = Path(__file__).resolve().parent.parent
TINY = ['--blocks=1', '--maps=8', '--disc_maps=4', '--width=32', '--height=16', '--batch_size=4', '--workers=0']

BAD_FLAGS = [
    '--height=30', '--height=0', '--height=-32', '--height=tall', '--width=130', '--width=0', '--ds_scale=3',
    '--ds_scale=0', '--ds_scale=8', '--epochs=0', '--batch_size=0', '--batch_size=-4', '--test_batch_size=0',
    '--workers=-1', '--max_steps=-1', '--max_len=0', '--lr=0', '--lr=-1e-4', '--lr=nan', '--lr=inf', '--grad_clip=-1',
    '--grad_clip=nan', '--tpl_clip=-1', '--warmup=-1', '--seed=-1', '--seed=4294967296', '--blocks=0', '--maps=0',
    '--disc_maps=0', '--save_every=0', '--tpl_weight=-1', '--tpl_weight=inf', '--vgg_weight=nan', '--augmentation=1.5',
    '--amp=fp8', '--augmentation=-1', '--degradation=jpeg', '--arch=edsr', '--voc_type=DIGITS', '--beam_width=0',
    '--blur_w=0', '--blur_h=-1', '--lr_sizes=32', '--lr_sizes=0x8', '--lr_sizes=32x-8', '--lr_sizes=²x8',
    '--heigth=32', '--ema=1', '--ema=-0.1', '--ema=nan', '--decay_steps=-1', '--teacher_dropout=1',
    '--teacher_dropout=-0.1', '--content_weight=0 --arch=srresnet',
    '--finetune_aster --arch=srresnet', '--tpl_anchor=0.5 --arch=srgan', '--tpl_perturbation=0.5 --tpl_weight=0',
    '--tpl_weight=1 --arch=aster', '--finetune_aster --arch=aster', '--generator_path=g.pth --arch=aster',
    '--teacher_path=g.pth --arch=aster',
    '--aster_path=none', '--test', '--methods bicubic', '--resume --test --test_data_dir x', '--read_reduced',
    '--teacher_dropout=0.1', '--blocks=4 --generator_path=g.pth', '--maps=16 --generator_path=g.pth',
    '--batch_size=1 --hr_sizes 64x32 16x16', '--batch_size=1 --sync_bn --hr_sizes 16x16',
    '--aster_width=16 --arch=aster', '--aster_lr=1e-5',
    '--hr_sizes 64x32 --arch=aster', '--read_both --arch=aster --test_data_dir x', '--read_both', '--single_test',
    '--lr_sizes 32x8',
    '--train_shares 1 2', '--train_shares 0', '--train_shares=-1', '--train_shares=nan', '--train_shares=inf',
    '--val_data_dir a/words b/words', '--test_data_dir a/words words=b', '--val_data_dir a/combined',
    '--test_data_dir combined=a', '--vgg_weight=1 --height=8', '--vgg_weight=1 --hr_sizes 64x32 64x12',
    '@no_such_recipe.txt', '--generator_path=', '--teacher_path=', '--val_data_dir=', '--logs_dir=', '--resume=',
    '--maps=9999999999', '--epoch_size=9999999999', '--batch_size=9999999999', '--lr_sizes=9999999999x8',
]


@pytest.mark.parametrize('text', BAD_FLAGS)
def test_bad_flags(text, capsys, tmp_path, monkeypatch):
    """One line that names the flag, status 2, and nothing done: the training data are not even looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main.main(['--train_data_dir', 'nowhere', *text.split()])
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ''
    assert err.startswith('main.py: ') and err.count('\n') == 1
    named = {'--content_weight=0 --arch=srresnet': 'every loss', '@no_such_recipe.txt': 'no_such_recipe.txt'}
    assert named.get(text, text.split('=')[0].split()[0]) in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('script, argv', [
    ('create_lmdb', ['--check', '']), ('crop_800k', ['--out_path', '']), ('render_words', ['--background_dir', '']),
    ('split_words', ['--input', 'a.txt', '--out', '']), ('plot_training', ['']), ('export_weights', ['a.pth', '']),
])
def test_commands_refuse_empty_values(script, argv, capsys):
    assert status_of(importlib.import_module(f'utils.{script}').parse_args, argv) == 2
    assert 'its value is empty' in capsys.readouterr().err


def test_every_flag_has_help_and_is_read():
    code = ''.join((PROJECT / name).read_text() for name in ('main.py', 'lib/build.py'))
    derived = {'val_data_dir': 'val_sets', 'test_data_dir': 'test_sets', **dict.fromkeys(
        (f'{term}_weight' for term in TERMS), 'weights')}
    for action in build_parser()._actions:
        if action.dest != 'help':
            assert action.help, action.dest
            assert re.search(rf'args\.{derived.get(action.dest, action.dest)}\b', code), action.dest
    shown = ' '.join(build_parser().format_help().split())
    assert '0.005 with textsr' in shown and '(default: 1.0)' in shown and 'None)' not in shown


def test_defaults_of_a_run_without_training_data():
    assert (parse_args([]).epochs, parse_args([]).demo) == (1, True)
    assert parse_args([]).generator_path == SRRESNET_PATH
    for flags in (['--ds_scale', '2'], ['--arch', 'aster'], ['--blocks', '16'], ['--maps', '32']):
        assert parse_args(flags).generator_path is None, flags
    assert (parse_args(['--epochs', '7']).epochs, parse_args(['--bloc=7']).blocks) == (7, 7)
    args = parse_args(['--train_data_dir', 'x'])
    assert (args.epochs, args.blocks, args.demo, args.lr) == (10, 16, False, 1e-4)
    assert parse_args(['--train_data_dir', 'x', '--arch', 'aster']).lr == 3e-4


def test_flags_from_a_file(tmp_path):
    """Several on a line, comments, names with blanks; what stands behind the file on the command line wins."""
    recipe = tmp_path / 'recipe.txt'
    recipe.write_text("# a comment\n--arch srgan --lr 3e-4  # another\n\n--train_data_dir 'a b' c\n")
    args = parse_args([f'@{recipe}', '--lr', '1e-3'])
    assert (args.arch, args.lr, args.train_data_dir) == ('srgan', 1e-3, ['a b', 'c'])


def test_a_file_of_flags_that_cannot_be_read_is_named(tmp_path, capsys):
    recipe, other = tmp_path / 'recipe.txt', tmp_path / 'other.txt'
    other.write_text(f'@{recipe}\n')
    for content, told in (("--logs_dir 'a b\n", "--logs_dir 'a b"),
                          (f'@{SRRESNET_PATH}', f'main.py: @{SRRESNET_PATH}: not a text file in UTF-8\n'),
                          (f'--lr 1e-3\n@{other}\n', f'main.py: @{recipe}: the file names itself\n')):
        recipe.write_text(content)
        assert status_of(parse_args, [f'@{recipe}']) == 2 and told in capsys.readouterr().err


def test_a_new_recognizer_of_half_the_channels():
    """It has the sizes of the shipped one."""
    args = parse_args(['--arch', 'aster', '--aster_path', 'none', '--aster_width', '16', '--train_data_dir', 'x'])
    new, _ = build_recognizer(args, torch.device('cpu'))
    shipped = load_aster(ASTER_PATH)
    assert {name: value.shape for name, value in new.state_dict().items()} == \
        {name: value.shape for name, value in shipped.state_dict().items()}


def test_sets_and_sizes():
    args = parse_args(['--test', '--test_data_dir', 'IC15=', 'x/ic13', 'name=path/y', '--lr_sizes', '32x8', '20X5'])
    assert args.test_sets == [('IC15', None), ('ic13', 'x/ic13'), ('name', 'path/y')]
    assert args.lr_sizes == [(8, 32), (5, 20)]


def test_flags_of_training_may_stay_in_a_test():
    flags = ['--aster_width', '16', '--aster_lr', '1e-4', '--blocks', '4', '--generator_path', 'g.pth']
    assert parse_args([*flags, '--test', '--test_data_dir', 'x']).aster_width == 16


def test_vgg_sees_the_sizes_that_are_trained_on():
    flags = ['--train_data_dir', 'x', '--vgg_weight', '1', '--height', '8', '--hr_sizes', '64x16', '16x32']
    assert parse_args(flags).hr_sizes == [(16, 64), (32, 16)]


def test_folders_with_an_equals_sign_and_links_that_go_round(tmp_path):
    folder, loop = tmp_path / 'size=128' / 'svt', tmp_path / 'loop'
    folder.mkdir(parents=True)
    loop.symlink_to(loop)
    args = parse_args(['--test', '--test_data_dir', str(folder), f'own={folder}', str(loop)])
    assert args.test_sets == [('svt', str(folder)), ('own', str(folder)), ('loop', str(loop))]


# ---------------------------------------------------------------------------- flags that a file or folder contradicts

@pytest.fixture
def run(tiny_lmdb, tiny_aster, tmp_path, capsys):
    """run(*flags) -> (status, the lines of stderr) of a training run of two steps."""
    data = tiny_lmdb()

    def start(*more):
        capsys.readouterr()
        sizes = TINY[2 if '--generator_path' in more else 0:]
        status = main.main(['--train_data_dir', data, *sizes, '--aster_path', tiny_aster, '--epochs', '1', '--logs_dir',
                            str(tmp_path / 'logs'), *map(str, more)])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('main.py: ')]
        return status, lines
    return start


def refused(result, *parts):
    status, lines = result
    return status == 2 and len(lines) == 1 and all(part in lines[0] for part in parts)


def test_missing_files_are_found_before_any_work(run, tmp_path, tiny_lmdb):
    assert refused(run('--val_data_dir', tmp_path / 'no_val'), 'no_val: no LMDB there')
    assert refused(run('--test_data_dir', f'IC15={tmp_path / "no_test"}'), 'no_test: no LMDB there')
    assert refused(run('--train_data_dir', tmp_path / 'no_train'), 'no_train: no LMDB there')
    assert refused(run('--aster_path', tmp_path / 'no.pth'), 'no.pth: no such checkpoint')
    for flag in ('--generator_path', '--teacher_path'):
        assert refused(run(flag, tmp_path / 'no.pth'), 'no.pth: no such checkpoint')
    test = ['--test', '--test_data_dir', tiny_lmdb('test'), '--generator_path']
    assert refused(run(*test, tmp_path / 'no.pth'), 'no.pth: no such checkpoint')
    assert refused(run(*test, SRRESNET_PATH, '--methods', 'bicubic'), f'--generator_path {SRRESNET_PATH}: tested as')
    assert refused(run('--resume', tmp_path / 'no.pth'), 'no.pth: no such checkpoint')
    for device in ('tpu', 'meta'):  # the latter computes no values
        assert refused(run('--device', device), f'--device {device}: ')
    assert not (tmp_path / 'logs').exists()


def test_logs_dir_that_is_a_file(run, tmp_path):
    (tmp_path / 'file').write_text('mine')
    assert refused(run('--logs_dir', tmp_path / 'file'), 'file')
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('line', ['epoch 1 loss 3.2', '{"step": 3}', '[1]', '{"epoch": "one"}', '\xff'])
def test_logs_dir_with_the_log_of_another_program(run, tmp_path, line):
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'logs' / 'log.txt').write_bytes(line.encode('latin-1') + b'\n')
    assert refused(run(), f'{tmp_path}/logs/log.txt: line 1 is no entry of a log of main.py')
    assert [path.name for path in (tmp_path / 'logs').iterdir()] == ['log.txt']


def test_a_run_does_not_start_from_a_checkpoint_that_it_would_replace(run, tmp_path, monkeypatch, tiny_lmdb):
    data, more, logs = tiny_lmdb('more'), ['--arch', 'srresnet'], tmp_path / 'logs'
    assert run(*more) == (0, [])
    last, before = logs / 'last.pth', (logs / 'last.pth').read_bytes()
    monkeypatch.chdir(logs)
    (tmp_path / 'link.pth').symlink_to(last)
    (tmp_path / 'other').symlink_to(logs)
    for flag, given in (('--generator_path', last), ('--teacher_path', 'last.pth'),
                        ('--aster_path', '../other/last.pth'), ('--generator_path', tmp_path / 'link.pth')):
        assert refused(run(*more, flag, given), f'{flag} {given}: this run writes', 'choose another --logs_dir')
        assert refused(run(*more, '--logs_dir', '../other', flag, given), f'{flag} {given}: this run writes')
    assert sorted(logs.iterdir()) == sorted(logs / name for name in ('args.json', 'last.pth', 'log.txt', 'tensorboard'))
    assert last.read_bytes() == before

    assert run(*more, '--generator_path', last, '--resume', '--epochs', '2') == (0, [])  # of a run from before
    assert run(*more, '--generator_path', last, '--test', '--methods', 'srresnet', '--test_data_dir', data) == (0, [])
    assert run(*more, '--generator_path', last, '--logs_dir', tmp_path / 'new') == (0, [])


def test_what_a_demo_needs_is_looked_for_before_it_renders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    for more in (['--aster_path', 'no.pth'], ['--generator_path', 'no.pth'], ['--logs_dir', 'file/logs']):
        assert main.main(['--device', 'cpu', *more]) == 2
        assert more[1] in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ['file']


def test_vgg_weights_that_cannot_be_had(run, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr('torch.nn.Linear.reset_parameters', lambda layer: None)  # 120 million numbers
    for name in ('http_proxy', 'https_proxy', 'HTTPS_PROXY'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    place = tmp_path / 'home' / 'hub' / 'checkpoints' / 'vgg19-'
    assert refused(run('--vgg_weight', '1e-3', '--height', '32', '--width', '32'), 'put http', f'at {place}',
                   '--vgg_weight')


def test_exported_weights_are_no_run(run, tmp_path):
    save_checkpoint(tmp_path / 'textsr.pth', {'state_dict': {}, 'arch': 'textsr', 'iteration': 3})
    assert refused(run('--resume', tmp_path / 'textsr.pth'), 'exported weights', 'from them with --generator_path')
    assert refused(run('--resume', tmp_path / 'textsr.pth', '--arch', 'aster'), 'from them with --aster_path')


def test_one_word_is_no_batch_for_the_recognizer(run, capsys, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '')
    for more in ([], ['--sync_bn']):  # there are no other processes
        with pytest.raises(SystemExit):
            run('--arch', 'aster', '--batch_size', '1', *more)
        assert '--batch_size 1: the batch norm of --arch aster needs at least 2' in capsys.readouterr().err
    monkeypatch.setenv('WORLD_SIZE', '2')
    parse_args(['--arch', 'aster', '--train_data_dir', 'x', '--batch_size', '1', '--sync_bn'])


@pytest.mark.parametrize('name', ['WORLD_SIZE', 'RANK', 'LOCAL_RANK'])
def test_numbers_of_processes_that_are_none_are_told(name, capsys, monkeypatch):
    monkeypatch.setenv(name, 'two')
    assert status_of(parse_args, ['--sync_bn', '--arch', 'aster', '--batch_size', '1']) == 2
    assert capsys.readouterr().err.startswith(f'main.py: {name}=two in the environment: must be a whole number')


def test_vocabulary_against_the_recognizer(run, tmp_path, tiny_aster):
    assert refused(run('--voc_type', 'LOWERCASE'), '--voc_type LOWERCASE', tiny_aster, 'ALLCASES_SYMBOLS')
    assert refused(run('--beam_width', 98), '--beam_width 98')
    assert not (tmp_path / 'logs').exists()


def test_scale_against_the_generator(run, tmp_path, tiny_lmdb, tiny_aster):
    save_checkpoint(tmp_path / 'x2.pth', Generator(2, 1, 8).state_dict())
    assert run('--generator_path', tmp_path / 'x2.pth') == (0, [])  # its layers, and one more upsampling stage
    assert run('--generator_path', tmp_path / 'x2.pth', '--ds_scale', 2) == (0, [])
    assert run('--teacher_path', tmp_path / 'x2.pth', '--ds_scale', 2) == (0, [])
    assert refused(run('--teacher_path', tmp_path / 'x2.pth'), 'x2.pth: enlarges 2 times; --ds_scale is 4')
    testing = ['--test', '--test_data_dir', tiny_lmdb('test_set')]
    assert refused(run(*testing, '--methods', f'mine={tmp_path / "x2.pth"}'), 'x2.pth: enlarges 2 times')
    assert refused(run(*testing, '--methods', 'mine'), '--methods mine')
    assert refused(run(*testing, '--read_both', '--methods', 'textsr'), '--read_both: bicubic and another method')
    named = [f'{name}={tmp_path / "x2.pth"}' for name in ('mine', 'bicubic+mine')]
    assert refused(run(*testing, '--read_both', '--ds_scale', 2, '--methods', 'bicubic', *named), 'bicubic+mine')
    status, (line,) = run(*testing, '--methods', tmp_path / 'x2.pth')
    assert status == 2 and line.endswith('or NAME=FILE'), 'no hint for an image'
    assert run(*testing, '--methods', f'mine={tmp_path / "x2.pth"}', '--ds_scale', 2) == (0, [])


def test_resume_of_another_run(run, tmp_path, tiny_aster):
    assert run('--arch', 'srgan') == (0, [])
    last = tmp_path / 'logs' / 'last.pth'
    before, log = last.read_bytes(), (tmp_path / 'logs' / 'log.txt').read_text()
    for more, message in [(['--arch', 'srresnet'], 'a run of --arch srgan; this run is --arch srresnet'),
                          (['--arch', 'aster'], 'a run of --arch srgan'),
                          (['--arch', 'srgan', '--maps', '16'], 'its generator does not fit'),
                          (['--arch', 'srgan', '--disc_maps', '8'], 'its discriminator does not fit'),
                          (['--arch', 'srgan', '--adversarial_weight', '0'], 'of another kind of run')]:
        assert refused(run('--resume', *more, '--epochs', '2'), '--resume', str(last), message), more
        assert last.read_bytes() == before and (tmp_path / 'logs' / 'log.txt').read_text() == log
    assert refused(run('--arch', 'srgan', '--resume', tiny_aster), 'no training run')
    state = load_checkpoint(last)
    state['progress']['age'] = 3
    save_checkpoint(last, state)
    assert refused(run('--arch', 'srgan', '--resume', '--epochs', '2'), str(last), "'age'")


@pytest.mark.parametrize('damage', ['cut', 'foreign'])
def test_resume_of_a_damaged_checkpoint_names_the_usable_one(run, tmp_path, tiny_lmdb, damage):
    assert run('--arch', 'srresnet', '--val_data_dir', tiny_lmdb('val')) == (0, [])
    last = tmp_path / 'logs' / 'last.pth'
    last.write_bytes(last.read_bytes()[:5000] if damage == 'cut' else b'\xff\xd8 a picture')
    assert refused(run('--arch', 'srresnet', '--resume'), str(last), 'readable beside it: best.pth')
    last.unlink()
    assert refused(run('--arch', 'srresnet', '--resume'), 'last.pth: no such checkpoint; readable beside it: best.pth')
    assert run('--arch', 'srresnet', '--resume', last.with_name('best.pth')) == (0, [])


def test_resume_where_nothing_is_yet(run, tmp_path, tiny_lmdb, tiny_aster, capsys):
    more = ['--arch', 'srresnet', '--logs_dir', str(tmp_path / 'new'), '--aster_path', tiny_aster, '--epochs', '1']
    assert main.main(['--train_data_dir', tiny_lmdb('other'), *TINY, *more, '--resume']) == 0
    assert f'no checkpoint in {tmp_path / "new"} yet; starting from the beginning' in capsys.readouterr().out
    assert (tmp_path / 'new' / 'last.pth').exists()


def test_resume_without_the_words_that_the_run_was_trained_on(run, tmp_path, tiny_aster, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where the words of a run without --train_data_dir would be rendered
    assert run('--arch', 'srresnet') == (0, [])
    words = json.loads((tmp_path / 'logs' / 'args.json').read_text())['train_data_dir']
    args = (tmp_path / 'logs' / 'args.json').read_text()
    capsys.readouterr()
    assert main.main([*TINY, '--arch', 'srresnet', '--logs_dir', str(tmp_path / 'logs'), '--aster_path', tiny_aster,
                      '--resume']) == 2
    assert f'give its --train_data_dir too: {words[0]}' in capsys.readouterr().err
    assert (tmp_path / 'logs' / 'args.json').read_text() == args and not (tmp_path / 'dataset').exists()


def test_defaults_of_the_text_perceptual_loss():
    """Anchor and perturbation come with --arch textsr, where it has that loss; no anchor beside --finetune_aster."""
    def chosen(*flags):
        args = parse_args(['--train_data_dir', 'x', *flags])
        return args.weights['tpl'], args.tpl_anchor, args.tpl_perturbation

    assert chosen() == (5e-3, 0.5, 0.5) and chosen('--tpl_weight=1', '--tpl_anchor=0') == (1, 0, 0.5)
    assert chosen('--tpl_weight=0') == (0, 0, 0) and chosen('--finetune_aster') == (5e-3, 0, 0.5)
    assert chosen('--arch=srresnet', '--tpl_weight=1') == (1, 0, 0)
