"""What the networks are given of a record: tensors made in the data workers, stacked by `collate`."""
import torch
from torch.utils.data import Dataset

from lib.datasets.augment import augment, vary
from lib.imaging import degrade, recognizer_input, resize, to_tensor


class PairSamples(Dataset):
    """Training pairs for super-resolution: hr (3, H, W) and lr (3, H / ds_scale, W / ds_scale) in [0, 1], and label.

    A draw is (index, seed). Paired sets give their own low-resolution pictures, others are degraded, after `vary` with
    the strength `augmentation`.
    """

    def __init__(self, records, height, width, ds_scale=4, degradation='bicubic', augmentation=0.0):
        self.records, self.size, self.ds_scale, self.degradation = records, (height, width), ds_scale, degradation
        self.augmentation = augmentation
        self.size_lr = (height // ds_scale, width // ds_scale)

    def __getitem__(self, draw):
        index, seed = draw
        record = self.records[index]
        if record.error:
            return {'error': record.error}
        image = to_tensor(record.image)[None]
        if record.image_lr is not None:
            hr, lr = resize(image, self.size), resize(to_tensor(record.image_lr)[None], self.size_lr)
        else:
            generator = torch.Generator().manual_seed(seed)
            hr = vary(image, self.size, self.augmentation, generator) if self.augmentation else resize(image, self.size)
            lr = degrade(hr, self.ds_scale, self.degradation, generator)
        return {'label': record.label, 'hr': hr[0], 'lr': lr[0]}


class ReadingSamples(Dataset):
    """Training samples for the recognizer: images (3, 64, 256) in [-1, 1] and label. A draw is (index, seed).

    augmentation: strength in [0, 1] of the random reduction, blur, noise, contrast and JPEG. reduced: (height, width)
    to reduce every image to before, and enlarge it from, both bicubic; None keeps the image's own size.
    """

    def __init__(self, records, augmentation=0.0, reduced=None, ds_scale=4):
        self.records, self.augmentation, self.reduced, self.ds_scale = records, augmentation, reduced, ds_scale

    def __getitem__(self, draw):
        index, seed = draw
        record = self.records[index]
        if record.error:
            return {'error': record.error}
        image = record.image
        image.thumbnail((400, 100))  # more than the recognizer sees; makes what follows cheap
        images = to_tensor(image)[None]
        if self.reduced:
            height, width = self.reduced
            hr = resize(images, (height * self.ds_scale, width * self.ds_scale))
            images = resize(degrade(hr, self.ds_scale), hr.shape[-2:])
        if self.augmentation:
            images = augment(images, self.augmentation, torch.Generator().manual_seed(seed))
        return {'label': record.label, 'images': recognizer_input(images)[0]}


class EvalSamples(Dataset):
    """What a test looks at, for each item of `indices`.

    original: the picture as it is, as recognizer input (3, 64, 256). pairs: for each (height, width) in sizes_lr the
    pair hr (3, ds_scale * height, ds_scale * width), lr (3, height, width). small: where the picture is lower
    and narrower than below = (height, width), its own pixels (3, h, w), else None.
    """

    def __init__(self, records, sizes_lr, ds_scale=4, degradation='bicubic', below=None, indices=None, seed=0):
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
        pairs = {size: self._pair(image, record.image_lr, size, index) for size in self.sizes_lr}
        is_small = self.below and image.shape[2] < self.below[0] and image.shape[3] < self.below[1]
        return {'index': index, 'label': record.label, 'original': recognizer_input(image)[0], 'pairs': pairs,
                'small': image[0] if is_small else None}

    def _pair(self, image, image_lr, size, index):
        hr = resize(image, (size[0] * self.ds_scale, size[1] * self.ds_scale))
        if image_lr is not None:
            return hr[0], resize(to_tensor(image_lr)[None], size)[0]
        generator = torch.Generator().manual_seed(self.seed + index)  # the same low resolution in every test
        return hr[0], degrade(hr, self.ds_scale, self.degradation, generator)[0]


def collate(samples):
    """Stack samples to a batch: tensors as one, `pairs` by size, anything else as lists.

    Samples without a picture are left out and their errors listed under 'errors'; all such: a batch of errors alone.
    """
    batch = {'errors': [sample['error'] for sample in samples if 'error' in sample]}
    samples = [sample for sample in samples if 'error' not in sample]
    for key in samples[0] if samples else ():
        values = [sample[key] for sample in samples]
        if key == 'pairs':
            batch[key] = {size: tuple(map(torch.stack, zip(*(pairs[size] for pairs in values)))) for size in values[0]}
        elif key != 'small' and torch.is_tensor(values[0]):
            batch[key] = torch.stack(values)
        else:
            batch[key] = values
    return batch
