"""What the flags of main.py make of networks, trainer and data, and what these are given in a step."""
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import encoded, photo
from PIL import Image

import main
from lib import build, engine
from lib.checkpoint import load_checkpoint, save_checkpoint
from lib.datasets.lmdb_dataset import Record
from lib.datasets.samples import encode_labels
from lib.imaging import recognizer_input, to_tensor
from lib.losses.text_perceptual import text_perceptual_loss
from lib.models.generator import Generator
from lib.options import parse_args
from lib.vocabulary import Vocabulary

CPU = torch.device('cpu')


@pytest.fixture
def train(tiny_lmdb, tiny_aster):
    """train(*flags) -> the flags, the recognizer, the vocabulary and the trainer of a run of ten steps."""
    def make(*flags):
        args = parse_args(['--train_data_dir', tiny_lmdb('one'), tiny_lmdb('two'), '--aster_path', tiny_aster,
                           '--blocks=1', '--maps=4', '--disc_maps=2', '--device=cpu', '--amp=off', *flags])
        torch.manual_seed(0)
        recognizer, vocabulary = build.build_recognizer(args, CPU)
        return args, recognizer, vocabulary, build.build_trainer(args, recognizer, vocabulary, CPU, 10)
    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {'hr': torch.rand(2, 3, 32, 128, generator=generator), 'lr': torch.rand(2, 3, 8, 32, generator=generator),
            'targets': encode_labels(['sun', 'K9'], Vocabulary())}


def test_flags_reach_the_trainer_and_the_sampler(train):
    args, _, vocabulary, trainer = train(
        '--tpl_anchor=0.3', '--tpl_perturbation=0.2', '--tpl_clip=0.7', '--grad_clip=1.5', '--warmup=2',
        '--decay_steps=4', '--ema=0.9', '--lr=1e-3', '--train_shares', '0.25', '0.75', '--epoch_size=16')
    assert trainer.tpl_options == {'clip': 0.7, 'perturbation': 0.2, 'anchor': 0.3}
    assert list(trainer.averages) == ['generator']
    rates = []
    step = trainer.optimizers['generator']
    for number in (0, 2, 6, 9):
        step.go_to(number)
        rates.append(step.optimizer.param_groups[0]['lr'])
    assert step.grad_clip == 1.5 and rates[1:3] == [1e-3, 1e-3] and max(rates[0], rates[3]) < 1e-3
    assert build.build_samples(args, vocabulary)[1].shares == [0.25, 0.75]


def test_each_network_has_its_rate_its_size_and_the_teacher_stays(train, batch, tmp_path):
    path = tmp_path / 'teacher.pth'
    save_checkpoint(path, {'state_dict': Generator(4, 1, 4, batch_norm=True).state_dict()})
    trainer = train('--adversarial_weight=1e-3', '--finetune_aster', '--lr=1e-3', '--aster_lr=1e-6', '--warmup=0',
                    '--teacher_path', str(path))[3]
    rates = [group['lr'] for group in trainer.optimizers['generator'].optimizer.param_groups]
    assert rates == [1e-3, 1e-6] and trainer.discriminator.features[0].out_channels == 2
    before = {name: value.clone() for name, value in trainer.teacher.state_dict().items()}
    trainer.step(batch)
    torch.testing.assert_close(trainer.teacher.state_dict(), before, rtol=0, atol=0)


def test_the_recognizer_reads_reductions_of_height_and_width(train):
    args, _, vocabulary, _ = train('--arch=aster', '--read_reduced', '--width=256', '--height=32', '--ds_scale=4')
    assert build.build_samples(args, vocabulary)[0].reduced == (8, 64)


def test_the_anchor_compares_with_the_high_resolution(train, batch):
    _, recognizer, vocabulary, trainer = train('--tpl_perturbation=0')
    with torch.no_grad():
        sr = trainer.generator(batch['lr'])
    expected = text_perceptual_loss(recognizer, sr, batch['targets'], vocabulary.padding, anchor=0.5,
                                    images_hr=batch['hr'])
    assert trainer.step(batch)['tpl'].item() == pytest.approx(expected.item(), rel=1e-4)


def test_every_step_levels_the_phases(train, batch):
    _, _, _, trainer = train('--arch=srresnet', '--lr=0.1', '--warmup=0')
    before = trainer.generator.upsample[0][0].bias.detach().clone()
    trainer.step(batch)
    for conv, *_ in trainer.generator.upsample:
        assert conv.bias.detach().unflatten(0, (-1, 4)).std(1).max() < 1e-6
    assert not torch.equal(trainer.generator.upsample[0][0].bias, before)


def test_the_recognizer_learns_from_what_it_will_be_shown(train):
    _, _, vocabulary, trainer = train('--arch=aster')
    picture, seen = photo((256, 64)), []
    trainer.recognizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trainer.step({'images': torch.from_numpy(np.array(picture))[None].repeat(2, 1, 1, 1),
                  'targets': encode_labels(['sun', 'K9'], vocabulary)})
    assert torch.allclose(seen[0][:1], recognizer_input(to_tensor(picture)[None]), atol=1e-5)


def test_the_average_of_a_recognizer_follows_its_weights_and_statistics(train):
    _, recognizer, vocabulary, trainer = train('--arch=aster', '--ema=0.75', '--warmup=1')
    expected = {name: value.clone() for name, value in recognizer.state_dict().items()}
    images = torch.randint(256, (2, 64, 256, 3), dtype=torch.uint8)
    for _ in range(2):
        trainer.step({'images': images, 'targets': encode_labels(['sun', 'K9'], vocabulary)})
        for name, value in recognizer.state_dict().items():
            expected[name] = 0.75 * expected[name] + 0.25 * value if value.is_floating_point() else expected[name]
    torch.testing.assert_close(trainer.network('recognizer').state_dict(), expected)
    assert not torch.allclose(expected['encoder.layer0.1.running_mean'], recognizer.encoder.layer0[1].running_mean)


def test_validation_reads_with_the_average_of_the_recognizer_and_leaves_it_alone(tiny_lmdb, tiny_aster, tmp_path,
                                                                                  monkeypatch):
    read, validate = [], engine.validate

    def watched(evaluation, *arguments):
        read.append({name: value.clone() for name, value in evaluation.recognizer.state_dict().items()})
        return validate(evaluation, *arguments)
    monkeypatch.setattr(engine, 'validate', watched)
    flags = ['--arch=aster', '--ema=0.5', '--epochs=2', '--batch_size=4', '--workers=0', '--device=cpu', '--warmup=1',
             '--train_data_dir', tiny_lmdb(), '--aster_path', tiny_aster]
    assert main.main([*flags, '--logs_dir', str(tmp_path / 'with'), '--val_data_dir', tiny_lmdb('val', ['sun'])]) == 0
    assert main.main([*flags, '--logs_dir', str(tmp_path / 'without')]) == 0
    states = [load_checkpoint(tmp_path / name / 'last.pth') for name in ('with', 'without')]
    for name, value in states[0]['recognizer'].items():
        assert torch.equal(value, read[1][name]) and torch.equal(value, states[1]['recognizer'][name]), name


def test_validation_pools_the_words_of_its_sets(train, tiny_lmdb):
    args, recognizer, vocabulary, _ = train('--arch=aster')
    evaluation = build.build_evaluation(args, recognizer.eval(), vocabulary, CPU)
    sets = [('a', tiny_lmdb('a', ['sun', 'rain', 'wet'])), ('b', tiny_lmdb('b', ['no']))]
    log = SimpleNamespace(message=lambda text: None, scalars=lambda *numbers: None)

    def psnr(sets):
        return engine.validate(evaluation, sets, (4, 16), build.build_methods(args, CPU), log, 1)['bicubic/psnr']
    args.methods, evaluation.workers = ['bicubic'], 0
    three, one = psnr(sets[:1]), psnr(sets[1:])
    assert three != one and psnr(sets) == pytest.approx((3 * three + one) / 4, rel=1e-5)


def test_a_test_reads_as_the_flags_say(train, tiny_lmdb, tmp_path):
    args, recognizer, vocabulary, _ = train('--arch=aster', '--degradation=real', '--beam_width=3', '--workers=0')
    args.methods = ['bicubic']
    evaluation = build.build_evaluation(args, recognizer, vocabulary, CPU)
    samples = evaluation.samples([Record('word', photo((128, 32)))] * 4, [(8, 32)])
    assert len({samples[index]['pairs'][8, 32][1].sum().item() for index in range(4)}) > 1, 'drawn for each picture'
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    methods, sets = build.build_methods(args, CPU), [('words', tiny_lmdb('words', ['sun', 'no']))]
    engine.test(evaluation, sets, [(8, 32)], methods, tmp_path)
    torch.testing.assert_close(recognizer.state_dict(), before, rtol=0, atol=0)  # it was in train mode
    recognizer.decoder.decoder.fc.weight.data.mul_(40)
    recognizer.decoder.decoder.fc.bias.data.zero_()
    inputs = recognizer_input(torch.rand(4, 3, 32, 128))
    scores = [score for _, score in evaluation.reader().read([inputs])]
    assert scores == pytest.approx(recognizer.decode(inputs, 3)[1].tolist(), rel=1e-4)
    assert scores != pytest.approx(recognizer.decode(inputs, 5)[1].tolist(), rel=1e-4)


def test_a_resumed_run_keeps_its_place_in_the_schedule_where_batches_were_left_out(tiny_lmdb, tiny_aster, tmp_path,
                                                                                    monkeypatch):
    whole, middle, validate = tmp_path / 'whole', tmp_path / 'middle.pth', engine.validate

    def copy_last(*arguments):
        if not middle.exists():
            shutil.copy(whole / 'last.pth', middle)
        return validate(*arguments)
    monkeypatch.setattr(engine, 'validate', copy_last)
    flags = ['--arch=srresnet', '--blocks=1', '--maps=4', '--width=32', '--height=16', '--epochs=2', '--batch_size=1',
             '--warmup=2', '--lr=1e-2', '--workers=0', '--device=cpu', '--aster_path', tiny_aster, '--train_data_dir',
             tiny_lmdb(changes={'image-000000003': b'cut'}), '--val_data_dir', tiny_lmdb('val', ['sun'])]
    assert main.main([*flags, '--logs_dir', str(whole)]) == 0
    assert main.main([*flags, '--logs_dir', str(tmp_path / 'resumed'), '--resume', str(middle)]) == 0
    first, second = (load_checkpoint(folder / 'last.pth')['generator'] for folder in (whole, tmp_path / 'resumed'))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_resumed_run_names_the_flags_that_change_it(tiny_lmdb, tiny_aster, tmp_path, capsys):
    """Compared with those of the run before, which may itself have been resumed; nothing is said where none differs."""
    def named(*flags):
        assert main.main(['--arch=srresnet', '--blocks=1', '--maps=4', '--width=32', '--height=16', '--batch_size=4',
                          '--device=cpu', '--aster_path', tiny_aster, '--logs_dir', str(tmp_path), *flags]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith('--resume')]

    data = ['--train_data_dir', tiny_lmdb(), '--max_steps=1']
    assert named(*data, '--amp=off', '--workers=0') == []
    assert named(*data, '--amp=off', '--workers=1', '--save_every=7', '--resume', '--content_weight=1') == []
    longer = ['--train_data_dir', tiny_lmdb('new'), '--max_steps=2', '--lr=1e-5', '--amp=bf16', '--workers=0',
              '--hr_sizes', '32x16', '64x16', '--content_weight=2', '--resume']
    line, = named(*longer)
    before, _, changed = line.partition(': other flags than before: ')
    assert before == f'--resume {tmp_path / "last.pth"}'
    assert sorted(changed.split(', ')) == [
        '--amp off -> bf16', '--content_weight 1.0 -> 2.0', '--hr_sizes none -> 32x16 64x16', '--lr 0.0001 -> 1e-05',
        '--max_steps 1 -> 2', f'--train_data_dir {tmp_path / "words"} -> {tmp_path / "new"}']
    assert named(*longer) == []
    for other in ('{', '[1]', '{"hr_sizes": [1]}', '{"hr_sizes": [[16, 32]]}', '{"weights": "none"}'):
        (tmp_path / 'args.json').write_text(other)
        assert build.flags_of_run(tmp_path / 'last.pth') == {}
    assert named(*data, '--resume') == []


def test_a_figure_without_a_mean_is_left_out_of_the_log(tiny_lmdb, tiny_aster, tmp_path):
    """White pictures are restored exactly, so that their PSNR is infinite."""
    white = {f'image-{number:09d}': encoded(Image.new('RGB', (32, 16), 'white')) for number in range(1, 9)}
    assert main.main(['--arch=aster', '--epochs=1', '--batch_size=4', '--workers=0', '--device=cpu', '--train_data_dir',
                      tiny_lmdb(), '--aster_path', tiny_aster, '--val_data_dir', tiny_lmdb('val', changes=white),
                      '--logs_dir', str(tmp_path / 'logs')]) == 0
    entry = (tmp_path / 'logs' / 'log.txt').read_text()
    assert 'NaN' not in entry and 'bicubic/psnr' not in entry and 'bicubic/accuracy' in entry
