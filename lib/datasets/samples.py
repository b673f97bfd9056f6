"""Records as input of the networks: tensors computed in the data workers, stacked by `collate`."""
import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lib.datasets.augment import augment, vary
from lib.datasets.degradation import degrade
from lib.datasets.loading import alone, stack
from lib.imaging import RECOGNIZER_SIZE, recognizer_input, resize, to_pil, to_tensor


def make_pair(image, image_lr, size, ds_scale, degradation, seed, augmentation=0.0):
    """hr (3, H, W), size = (H, W), and lr (3, H / ds_scale, W / ds_scale) of an image (1, 3, h, w), all in [0, 1].

    image_lr: a PIL image, the image's own low resolution; None: the image is degraded, after `vary` with the strength
    `augmentation`, both drawn by `seed`.
    """
    if image_lr is not None:
        hr, lr = resize(image, size), resize(to_tensor(image_lr)[None], (size[0] // ds_scale, size[1] // ds_scale))
    else:
        generator = torch.Generator().manual_seed(seed)
        hr = vary(image, size, augmentation, generator) if augmentation else resize(image, size)
        lr = degrade(hr, ds_scale, degradation, generator)
    return hr[0], lr[0]


class PairSamples(Dataset):
    """Training pairs for super-resolution: hr (3, H, W) and lr (3, H / ds_scale, W / ds_scale) in [0, 1], and label.

    sizes: the (H, W) that batches take in turn. A draw is (index, seed, seed of the batch), the last of which sets the
    size. The other arguments: see `make_pair`.
    """

    def __init__(self, records, sizes, ds_scale=4, degradation='bicubic', augmentation=0.0):
        self.records, self.sizes, self.ds_scale, self.degradation = records, sizes, ds_scale, degradation
        self.augmentation = augmentation

    def __getitem__(self, draw):
        index, seed, batch_seed = draw
        size = self.sizes[batch_seed % len(self.sizes)]
        record = self.records[index]
        if record.error:
            return {'error': record.error}
        hr, lr = make_pair(to_tensor(record.image)[None], record.image_lr, size, self.ds_scale, self.degradation, seed,
                           self.augmentation)
        return {'label': record.label, 'hr': hr, 'lr': lr}


class ReadingSamples(Dataset):
    """Training samples for the recognizer: images uint8 (64, 256, 3), and label. A draw is (index, seed, ...).

    They are 8-bit, a quarter of the recognizer's input to carry from data workers. augmentation: strength in [0, 1],
    see `augment`. reduced: (height, width) of the low resolution, see `make_pair`, from which every image is
    enlarged by bicubic before; None keeps the image's own size.
    """

    def __init__(self, records, augmentation=0.0, reduced=None, ds_scale=4, degradation='bicubic'):
        self.records, self.augmentation, self.reduced, self.ds_scale = records, augmentation, reduced, ds_scale
        self.degradation = degradation

    def __getitem__(self, draw):
        index, seed, *_ = draw
        record = self.records[index]
        if record.error:
            return {'error': record.error}
        image = record.image
        height, width = RECOGNIZER_SIZE
        if self.reduced:
            size = self.reduced[0] * self.ds_scale, self.reduced[1] * self.ds_scale
            _, lr = make_pair(to_tensor(image)[None], record.image_lr, size, self.ds_scale, self.degradation, seed)
            image = to_pil(resize(lr[None], size)[0])
        if self.augmentation:
            image.thumbnail((width, height))  # which makes all that follows cheap
            image = augment(image, self.augmentation, np.random.default_rng(seed))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        return {'label': record.label, 'images': torch.from_numpy(np.array(image))}


class EvalSamples(Dataset):
    """The pictures that a test needs, for each item of `indices`.

    original: the picture as it is, as `prepare` makes it from (1, 3, h, w) in [0, 1]; by default recognizer input
    (1, 3, 64, 256). pairs: for each (height, width) in sizes_lr the pair hr (3, ds_scale * height, ds_scale * width),
    lr (3, height, width). small: where the picture is lower and narrower than below = (height, width), its own pixels
    (1, 3, h, w), else None.
    """

    def __init__(self, records, sizes_lr, ds_scale=4, degradation='bicubic', below=None, indices=None, seed=0,
                 prepare=recognizer_input):
        self.prepare = prepare
        self.records, self.sizes_lr, self.ds_scale, self.degradation = records, sizes_lr, ds_scale, degradation
        self.below, self.seed = below, seed
        self.indices = range(len(records)) if indices is None else indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, item):
        index = self.indices[item]
        record = self.records[index]
        if record.error:
            return {'error': record.error}
        image = to_tensor(record.image)[None]
        pairs = {(height, width): make_pair(image, record.image_lr, (height * self.ds_scale, width * self.ds_scale),
                                            self.ds_scale, self.degradation, self.seed + index)
                 for height, width in self.sizes_lr}  # by its seed the low resolution is the same in every test
        is_small = self.below and image.shape[2] < self.below[0] and image.shape[3] < self.below[1]
        return {'index': index, 'label': record.label, 'original': self.prepare(image), 'pairs': pairs,
                'small': image if is_small else None}


def encode_labels(labels, vocabulary):
    """Strings -> class ids (N, T) int64, EOS included, PADDING behind; T is that of the longest label."""
    ids = [torch.tensor(vocabulary.encode(label)) for label in labels]
    return pad_sequence(ids, batch_first=True, padding_value=vocabulary.padding)


def collate(samples, vocabulary=None):
    """Stack samples to a batch: tensors as one, `pairs` by size, `original` as a list of batches, one where all are of
    one size, `small` one by one, anything else as lists.

    vocabulary: for training, `targets` too, the encoded labels. Samples without a picture are left out, their errors
    listed under 'errors'; that may leave a batch of errors only.
    """
    batch = {'errors': [sample['error'] for sample in samples if 'error' in sample]}
    samples = [sample for sample in samples if 'error' not in sample]
    for key in samples[0] if samples else ():
        values = [sample[key] for sample in samples]
        if key == 'pairs':
            batch[key] = {size: tuple(map(stack, zip(*(pairs[size] for pairs in values)))) for size in values[0]}
        elif key == 'original' and len({value.shape for value in values}) == 1:
            batch[key] = [stack([value[0] for value in values])]
        elif key in ('original', 'small'):
            batch[key] = [None if value is None else alone(value) for value in values]
        elif torch.is_tensor(values[0]):
            batch[key] = stack(values)
        else:
            batch[key] = values
    if vocabulary is not None and samples:
        batch['targets'] = stack(list(encode_labels(batch['label'], vocabulary)))
    return batch
