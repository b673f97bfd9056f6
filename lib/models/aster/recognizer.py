"""ASTER, the attentional scene text recognizer with flexible rectification (Shi et al., TPAMI 2018)."""
import torch
from torch import nn

from lib.imaging import resize_bilinear
from lib.models.aster.attention_head import AttentionHead
from lib.models.aster.resnet_aster import ResNetAster
from lib.models.aster.stn_head import STNHead
from lib.models.aster.tps import TPS
from lib.models.conv_bn import keep_folded

STN_SIZE = (32, 64)  # height, width of the localization network's input
TEXT_SIZE = (32, 100)  # height, width of the encoder's input


class Aster(nn.Module):
    """Rectification, ResNet + BiLSTM encoder, attention decoder. The defaults are the released model's sizes.

    width, stn_width: channels of the first convolution of the encoder and of the localization network. lstm_dim: units
    of each direction of the LSTM. decoder_dim, attention_dim, stn_dim: units of the decoder's state, of its attention
    and of the localization network's hidden layer. control_points: of the spline, an even number. blocks: residual
    blocks of each of the encoder's five stages. num_classes counts EOS, padding and unknown, the last three. alphabet:
    the characters of the others, a string, which the state dict then carries under that name; None: those of the
    vocabulary with as many classes.
    Input images are (N, 3, 64, 256) in [-1, 1], RGB. Training calls the module itself or `columns_and_logits`, reading
    calls `decode`; neither asks `self.training`. Under autocast the encoder's convolutions alone are in half precision:
    it would move the points of the rectification by fractions of a pixel, and add up over the steps of the recurrences.
    """

    def __init__(self, num_classes=97, width=32, decoder_dim=512, attention_dim=512, use_stn=True, use_lstm=True,
                 lstm_dim=256, stn_width=32, stn_dim=512, control_points=20, blocks=(3, 4, 6, 6, 3), alphabet=None):
        super().__init__()
        if alphabet is not None and len(alphabet) + 3 != num_classes:
            raise ValueError(f'an alphabet of {len(alphabet)} characters for {num_classes} classes, of which three are '
                             'EOS, padding and unknown')
        self.alphabet = alphabet
        self.fixed_bn = self.folded = False
        self.encoder = ResNetAster(width, use_lstm, lstm_dim, blocks)
        self.decoder = AttentionHead(num_classes, self.encoder.out_planes, decoder_dim, attention_dim)
        self.tps = TPS(*TEXT_SIZE, control_points) if use_stn else None
        self.stn_head = STNHead(stn_width, stn_dim, control_points) if use_stn else None
        self.register_load_state_dict_post_hook(Aster.refold)

    @property
    def num_classes(self):
        return self.decoder.decoder.fc.out_features

    def control_points(self, images):
        """Where the text line lies: (N, K, 2), (x, y) in units of the image."""
        return self.stn_head(resize_bilinear(images, STN_SIZE, align_corners=True))

    def rectify(self, images):
        """The straightened text line (N, 3, 32, 100) in [-1, 1]; without an STN the whole image at that size."""
        with torch.autocast(images.device.type, enabled=False):
            if self.stn_head is None:
                return resize_bilinear(images, TEXT_SIZE, antialias=True)
            return self.tps(images, self.control_points(images))

    def encode(self, images):
        """Columns of features, left to right: (N, 25, C)."""
        return self.encoder(self.rectify(images))

    def forward(self, images, targets):
        """Teacher-forced logits (N, T, num_classes) of the target ids (N, T), int64, EOS included by the caller.

        The start symbol is put in front here. T steps are computed: bound it by the longest label of the batch.
        """
        return self.columns_and_logits(images, targets)[1]

    def columns_and_logits(self, images, targets):
        """What `encode` and `forward` give, from one pass."""
        columns = self.encode(images)
        with torch.autocast(images.device.type, enabled=False):
            return columns, self.decoder(columns, targets)

    @torch.no_grad()
    def decode(self, images, beam_width=1, max_len=100):
        """Read the images, greedily (beam_width 1) or by beam search.

        Returns ids (N, L), int64, L <= max_len, EOS from the end of each string on (no EOS: cut at max_len), and
        scores (N,), float32: the summed log probability of the string with its EOS. Stops when every string is settled.
        """
        if not 1 <= beam_width <= self.num_classes or max_len < 1:
            raise ValueError(f'beam_width {beam_width}, max_len {max_len}: '
                             f'need 1 <= beam_width <= {self.num_classes} and max_len >= 1')
        columns = self.encode(images)
        with torch.autocast(images.device.type, enabled=False):
            if beam_width == 1:
                return self.decoder.greedy(columns, max_len)
            return self.decoder.beam_search(columns, beam_width, max_len)

    def with_classes(self, rows, alphabet=None):
        """Change the classes: class i starts as a copy of the old class rows[i]. The last three keep their meaning.

        All but the embedding and the last layer is shared.
        """
        cell, start = self.decoder.decoder, self.num_classes
        with torch.no_grad():
            cell.tgt_embedding = nn.Embedding.from_pretrained(cell.tgt_embedding.weight[[*rows, start]], freeze=False)
            layer = nn.Linear(cell.fc.in_features, len(rows))
            layer.weight.copy_(cell.fc.weight[rows])
            layer.bias.copy_(cell.fc.bias[rows])
        cell.fc = layer
        self.decoder.eos, self.decoder.bos, self.alphabet = len(rows) - 3, len(rows), alphabet
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        # no buffer: those are averaged and halved
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.alphabet is not None:
            destination[f'{prefix}alphabet'] = torch.tensor([ord(character) for character in self.alphabet])

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        alphabet = alphabet_of(state_dict.pop(f'{prefix}alphabet', None))
        if alphabet != self.alphabet:
            error_msgs.append(f'its alphabet is {alphabet or "that of its number of classes"}, not '
                              f'{self.alphabet or "that of its number of classes"}')
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)

    def freeze(self):
        """Freeze as a critic that lets gradients through to the images; returns self.

        No parameter takes a gradient and batch norm uses and keeps its stored statistics, even after `train()` on a
        module that holds this one. RNNs stay in train mode, because cuDNN refuses to go backward through one in eval
        mode; without dropout this changes nothing in what they compute.
        """
        self.fixed_bn = True
        return self.requires_grad_(False).train(False)

    def requires_grad_(self, requires_grad=True):
        """As of any module; batch norm of a frozen one that takes no gradient is folded into its convolutions, once."""
        super().requires_grad_(requires_grad)
        self.fold(self.fixed_bn and not requires_grad)
        return self

    def fold(self, fixed):
        """Keep or drop the folded convolutions."""
        self.folded = fixed
        keep_folded(self.encoder.pairs(), fixed)
        keep_folded(self.stn_head.pairs() if self.stn_head else (), fixed)

    def refold(self, _incompatible_keys):
        """Called after weights were loaded."""
        if self.folded:
            self.fold(True)

    def train(self, mode=True):
        super().train(mode)
        if self.fixed_bn:
            for module in self.modules():
                module.training = isinstance(module, nn.RNNBase)
        return self


def alphabet_of(codes):
    """The characters that a state dict holds as code points, a tensor; None of None. ValueError where it is neither."""
    if codes is None:
        return None
    try:
        return ''.join(map(chr, codes.tolist()))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f'its alphabet is no list of code points ({error})') from error


def infer_sizes(shapes):
    """Arguments of `Aster` from the shapes of a state dict; a size that does not follow from them keeps its default."""
    sizes = {'use_stn': any(name.startswith(('stn_head.', 'tps.')) for name in shapes),
             'use_lstm': any(name.startswith('encoder.rnn.') for name in shapes),
             'blocks': [len({name.split('.')[2] for name in shapes if name.startswith(f'encoder.layer{stage}.')})
                        for stage in range(1, 6)]}
    sources = {
        'num_classes': ('decoder.decoder.fc.weight', 0),
        'width': ('encoder.layer0.0.weight', 0),
        'decoder_dim': ('decoder.decoder.attention_unit.sEmbed.weight', 1),
        'attention_dim': ('decoder.decoder.attention_unit.sEmbed.weight', 0),
        'lstm_dim': ('encoder.rnn.weight_hh_l0', 1),
        'stn_width': ('stn_head.stn_convnet.0.0.weight', 0),
        'stn_dim': ('stn_head.stn_fc1.0.weight', 0),
        'control_points': ('tps.target_control_points', 0),
    }
    for argument, (name, axis) in sources.items():
        shape = shapes.get(name, ())
        if len(shape) > axis and shape[axis] > 0:
            sizes[argument] = shape[axis]
    return sizes


def describe_misfit(found, expected):
    """How two dicts of name -> shape differ, the first three of each kind; an empty string where they do not."""
    wrong = {
        'missing': [f'{name} {expected[name]}' for name in expected if name not in found],
        'unexpected': [f'{name} {found[name]}' for name in found if name not in expected],
        'wrong shape': [f'{name} {found[name]} instead of {expected[name]}' for name in expected
                        if name in found and found[name] != expected[name]],
    }
    return '; '.join(f'{len(names)} {kind}: {", ".join(names[:3])}{", ..." if len(names) > 3 else ""}'
                     for kind, names in wrong.items() if names)


def aster_from_state_dict(state_dict):
    """Build the recognizer a state dict belongs to, of whatever width, and load it strictly; in train mode, on the CPU.

    The architecture follows from names and shapes: no `stn_head.*` and `tps.*` means no STN, no `encoder.rnn.*` no
    LSTM. Half precision becomes float32. Where the state dict does not fit: ValueError, in one line, with the first
    offending names and shapes.
    """
    tensors = dict(state_dict)  # loading takes the alphabet out of it
    shapes = {name: tuple(getattr(value, 'shape', ())) for name, value in tensors.items()}
    alphabet = alphabet_of(tensors.get('alphabet'))
    model = Aster(**infer_sizes(shapes), alphabet=alphabet)
    misfit = describe_misfit(shapes, {name: tuple(value.shape) for name, value in model.state_dict().items()})
    if misfit:
        raise ValueError(f'not the state dict of an ASTER recognizer: {misfit}')
    try:
        model.load_state_dict(tensors)  # copies into the model's own float32 tensors
    except RuntimeError as error:  # sparse and quantized tensors cannot be copied
        raise ValueError(f'not the state dict of an ASTER recognizer: {" ".join(str(error).split())}') from error
    return model
