"""The formats of image files, by Pillow's names: no file is opened as another one, whatever it is called."""
from PIL import features

FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'TIFF', 'WEBP', 'PPM')  # what other loaders read too; others may run programs
READABLE = FORMATS + (('AVIF',) if 'avif' in features.modules and features.check('avif') else ())
