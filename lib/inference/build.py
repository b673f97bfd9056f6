"""A conversion from the flags of convert.py: its networks and its words."""
import torch

from lib.checkpoint import load_aster, load_generator
from lib.imaging import recognizer_input, to_tensor
from lib.inference.conversion import Converter
from lib.inference.detection import Detector
from lib.inference.enlarging import Method
from lib.inference.evaluation import read_words
from lib.runtime.device import is_out_of_memory, pick_amp, pick_device
from lib.vocabulary import Vocabulary, vocabulary_of


def load(flag, path, loader, device):
    """The network in a file, ready to be used; errors name the flag."""
    try:
        return loader(path).to(device).requires_grad_(False).eval()
    except (OSError, ValueError) as error:
        raise ValueError(f'{flag} {error}') from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f'--device {device}: has no memory left for {flag} {path}') from error


def build_enlargers(args, device):
    """{method: Method}, all of one scale, and the Method of --background, None without."""
    paths, ground = dict(args.paths), None
    if args.background:  # one of the methods, or a network of its own, under the name None
        ground = args.background_name if args.paths.get(args.background_name, '') == args.background_path else None
        paths[ground] = args.background_path
    flags = {name: f'--{name}_path' if path == getattr(args, f'{name}_path', None) else f'--methods {name}:'
             for name, path in args.paths.items()}
    flags.setdefault(ground, f'--background {args.background_name}:')
    generators = {name: load(flags[name], path, load_generator, device) for name, path in paths.items() if path}
    scales = {name: generator.scale for name, generator in generators.items()}
    scale = args.ds_scale if args.ds_scale > 1 else next((scales[name] for name in args.paths if name in scales), 4)
    for name in scales:
        if scales[name] != scale:
            other = f'--ds_scale is {scale}' if args.ds_scale > 1 else f'the first method {scale} times'
            raise ValueError(f'{flags[name]} {paths[name]}: enlarges {scales[name]} times; {other}')
    amp = pick_amp(args.amp, device)
    enlargers = {name: Method(generators.get(name), scale, device, amp) for name in paths}
    return {name: enlargers[name] for name in args.paths}, enlargers[ground] if args.background else None


def build_reader(args, device):
    """A function of a list of PIL images of any size that returns (string, score) of each, and its vocabulary."""
    recognizer = load('--aster_path', args.aster_path, load_aster, device).freeze()
    if args.beam_width > recognizer.num_classes:
        raise ValueError(f'--beam_width {args.beam_width}: more than the {recognizer.num_classes} classes there are')
    vocabulary = vocabulary_of(recognizer.num_classes, recognizer.alphabet)

    def read(pictures):
        inputs = torch.cat([recognizer_input(to_tensor(picture)[None]) for picture in pictures])
        return read_words(recognizer, vocabulary, inputs.to(device), args.beam_width)

    return read, vocabulary


def build_converter(args, labels, say):
    """The Converter of the flags. OSError or ValueError, which names the flag, where one cannot be."""
    device = pick_device(args.device)
    enlargers, ground = build_enlargers(args, device)
    read, vocabulary = (None, Vocabulary()) if args.no_read else build_reader(args, device)

    words = Detector() if args.boxes == 'auto' else args.words

    def words_of(path, image):
        return args.zoom + (words.of(path, image) if words else [])

    return Converter(
        enlargers, read, vocabulary, args.folders, args.drawings, ground, args.ds_scale,
        (args.width, args.height) if args.width else None, keep_alpha=not args.measured, batch_size=args.batch_size,
        labels=labels, words_of=words_of, say=say, read_both=args.read_both)
