"""The formats of image files, by Pillow's names: no file is opened as another one, whatever it is called."""
from PIL import features

FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'TIFF', 'WEBP', 'PPM')  # of other loaders too; for EPS Pillow runs a program
READABLE = FORMATS + (('AVIF',) if 'avif' in features.modules and features.check('avif') else ())
