"""Words found in photographs by RapidOCR, which is optional; its package holds its networks, so it needs no network."""
import numpy as np

from lib.inference.boxes import SCENE


def words_of_line(text, pieces):
    """The corners of each word of a line of text: [(x, y), ...] from the top left on, clockwise.

    pieces: (text, score, corners) in the order of the line; they may cut words, but not join them. Where they do not
    add up to the words, the corners of the whole line.
    """
    found, joined, first = [], '', None
    words = text.split()
    for piece, _, corners in pieces:
        joined += piece.strip()
        first = first or corners
        if len(found) < len(words) and joined == words[len(found)]:
            found.append([first[0], corners[1], corners[2], first[3]])
            joined, first = '', None
    if len(found) == len(words):
        return found
    return [[pieces[0][2][0], pieces[-1][2][1], pieces[-1][2][2], pieces[0][2][3]]]


class Detector:
    """Finds words in photographs. ValueError where RapidOCR is not installed."""

    def __init__(self):
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise ValueError(f'--boxes auto: {error}; pip install rapidocr onnxruntime') from error
        self.engine = RapidOCR(params={'Global.log_level': 'critical'})

    def of(self, _path, image):
        """The corners of the words in an RGB PIL image, a list; none in a picture of a word."""
        if min(image.size) <= SCENE:
            return []
        result = self.engine(np.asarray(image)[..., ::-1], return_word_box=True)  # RGB -> BGR
        if not result.txts:
            return []
        return [[tuple(map(float, corner)) for corner in corners] for text, pieces in
                zip(result.txts, result.word_results) if pieces for corners in words_of_line(text, pieces)]
