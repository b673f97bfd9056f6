"""Which device and precision are taken, and that no tensor of a step is made elsewhere; the commands on a GPU.

Steps run with another default device than that of networks and batch, so that a tensor made without a word on its
device cannot be computed with: 'meta' beside the CPU, and the CPU beside CUDA where there is one.
"""
import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY_ASTER
from torch.utils.data import DataLoader

import convert
from lib.checkpoint import load_checkpoint
from lib.datasets.samples import encode_labels
from lib.inference.evaluation import aster_reader, evaluate
from lib.models.aster import Aster
from lib.models.discriminator import Discriminator
from lib.models.generator import Generator
from lib.runtime.device import pick_amp, pick_device
from lib.trainers import OptimizerStep, RecognizerTrainer, SuperResolutionTrainer
from lib.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = {'content': 1.0, 'adversarial': 1e-3, 'tpl': 5e-4, 'vgg': 6e-3}


@pytest.fixture
def elsewhere(device):
    """A context in which tensors made without a device are on another one."""
    return torch.device('meta' if device.type == 'cpu' else 'cpu')


def optimizer_step(network):
    return OptimizerStep(torch.optim.Adam(network.parameters()), lambda step: 1.0, grad_clip=1.0)


def trained(trainer, batch, elsewhere):
    """What a step returns; one before makes the optimizers' states, which torch itself makes without a device."""
    batch = {**batch, 'label': ['sun', 'K9'], 'targets': encode_labels(['sun', 'K9'], Vocabulary())}
    trainer.step(batch)
    with elsewhere:
        return trainer.step(batch)


@pytest.mark.parametrize('options', [{'clip': 1.0}, {'anchor': 0.1}])
def test_super_resolution_training_stays_on_its_device(device, elsewhere, vgg, options):
    networks = {'generator': Generator(2, 1, 8).to(device), 'discriminator': Discriminator(4).to(device)}
    recognizer, vgg = Aster(**TINY_ASTER).freeze().to(device), copy.deepcopy(vgg).to(device)
    optimizers = {name: optimizer_step(network) for name, network in networks.items()}
    trainer = SuperResolutionTrainer(networks, optimizers, device, WEIGHTS, recognizer, Vocabulary(), vgg,
                                     tpl_options=options, ema=0.9)
    trained(trainer, {'hr': torch.rand(2, 3, 16, 32), 'lr': torch.rand(2, 3, 8, 16)}, elsewhere)


def test_recognizer_training_stays_on_its_device(device, elsewhere):
    recognizer = Aster(**TINY_ASTER).to(device)
    trainer = RecognizerTrainer({'recognizer': recognizer}, {'recognizer': optimizer_step(recognizer)}, device,
                                Vocabulary(), ema=0.9)
    trained(trainer, {'images': torch.zeros(2, 64, 256, 3, dtype=torch.uint8)}, elsewhere)


class Loader(DataLoader):
    """Draws a seed, as all do, on the CPU."""

    def __iter__(self):
        with torch.device('cpu'):
            return super().__iter__()


@pytest.mark.parametrize('beam_width', [1, 3])
def test_reading_stays_on_its_device(device, elsewhere, beam_width):
    """A test step: words enlarged, measured and read, in both protocols."""
    generator, recognizer = Generator(2, 1, 8).to(device).eval(), Aster(**TINY_ASTER).to(device).freeze()
    batch = {'index': [0, 1], 'label': ['sun', 'K9'], 'errors': [], 'original': [torch.rand(2, 3, 64, 256)],
             'small': [torch.rand(1, 3, 9, 20), None],
             'pairs': {(8, 16): (torch.rand(2, 3, 16, 32), torch.rand(2, 3, 8, 16))}}
    with elsewhere:
        reader = aster_reader(recognizer, Vocabulary(), beam_width)
        readings, _ = evaluate(Loader([batch], batch_size=None), 'words', reader, Vocabulary(),
                               {'srgan': generator}, device, below=(32, 64), with_hr=True)
    assert len(readings) == 2 * 4


@pytest.mark.parametrize(('name', 'local_rank', 'expected'), [
    ('cuda', '1', 'cuda:1'), ('auto', '2', 'cuda:2'), ('cuda:0', '1', 'cuda:1'), ('cuda:3', None, 'cuda:3'),
    ('cuda', None, 'cuda'), ('cuda', '', 'cuda'), ('cpu', '1', 'cpu'),
])
def test_a_process_puts_nothing_on_the_gpu_of_another(name, local_rank, expected, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: chosen.append(str(device)))
    monkeypatch.setattr(torch, 'zeros', lambda size, device: torch.ones(size))  # there need be no GPU
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    if local_rank is not None:
        monkeypatch.setenv('LOCAL_RANK', local_rank)
    assert str(pick_device(name)) == expected
    assert chosen == ([expected] if ':' in expected else [])


@pytest.mark.parametrize('has_units', [True, False])
def test_mixed_precision_where_the_device_has_units_for_it(has_units, monkeypatch):
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: has_units, raising=False)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0) if has_units else (7, 5))
    for device in map(torch.device, ('cpu', 'cuda:0')):
        assert pick_amp('auto', device) == ('bf16' if has_units else 'off')
        assert [pick_amp(name, device) for name in ('off', 'bf16', 'fp16')] == ['off', 'bf16', 'fp16']


def test_mixed_precision_of_a_torch_that_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, '_is_avx512_bf16_supported', raising=False)
    assert pick_amp('auto', torch.device('cpu')) == 'off'


def test_no_test_takes_a_gpu_unasked(request):
    assert request.config.getoption('markexpr') == 'cuda' or (
        os.environ['CUDA_VISIBLE_DEVICES'] == '' and not torch.cuda.is_available())


COMMANDS = ['--arch=textsr --amp=bf16 --sync_bn', '--arch=textsr --amp=fp16', '--arch=textsr --deterministic',
            '--arch=textsr --amp=off --finetune_aster', '--arch=textsr --compile', '--arch=aster --amp=bf16',
            '--arch=aster --amp=fp16 --read_reduced', '--arch=srresnet --hr_sizes 32x16 48x16 --degradation real']


@pytest.mark.cuda
@pytest.mark.parametrize('flags', COMMANDS)
def test_training_on_cuda_learns_resumes_and_is_tested(flags, tiny_lmdb, tiny_aster, tmp_path):
    """As torchrun starts it, so with a process group, stopped after a step and resumed."""
    words = tiny_lmdb()
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=1',
               str(ROOT / 'main.py'), '--train_data_dir', words, '--val_data_dir', words, '--test_data_dir', words,
               '--aster_path', tiny_aster, '--blocks=1', '--maps=4', '--disc_maps=2', '--width=32', '--height=16',
               '--batch_size=2', '--epochs=2', '--grad_clip=1', '--ema=0.5', '--warmup=1', '--workers=1', '--resume',
               '--device=cuda', '--logs_dir', str(tmp_path / 'logs'), *flags.split()]
    if '--arch=aster' in flags:
        command = [part for part in command if part not in ('--blocks=1', '--maps=4')]
    states = []
    for steps in ('--max_steps=1', '--max_steps=8'):
        done = subprocess.run([*command, steps], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert '| words | 8 |' in done.stdout
        states.append(load_checkpoint(tmp_path / 'logs' / 'last.pth'))
    network = 'recognizer' if '--arch=aster' in flags else 'generator'
    changes = [(states[1][network][name] - value).abs().max() for name, value in states[0][network].items()]
    assert 0 < max(changes) < float('inf')


@pytest.mark.cuda
@pytest.mark.parametrize('flags', [['--amp=off'], ['--amp=bf16']])
def test_conversion_on_cuda_reads_what_it_does_on_a_cpu(flags, tmp_path, capsys):
    words = [str(ROOT / 'demo_pics' / 'words' / name) for name in ('02_ronaldo.jpg', '03_hotel.jpg', '08_welcome.jpg')]
    assert convert.main([*words, '-o', str(tmp_path / 'out'), '--device=cuda', *flags]) == 0
    read = [line.split('\t')[1] for line in capsys.readouterr().out.splitlines() if '\t' in line]
    assert read == ['RONALDO', 'HOTEL', 'Welcome'] and len(list((tmp_path / 'out').glob('*.png'))) == 3
