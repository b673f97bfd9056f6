"""What a conversion leaves beside its pictures: metrics.tsv, metrics.json, sheets of examples."""
import csv
import dataclasses
import io
import json
import math
import os
import zlib
from pathlib import Path

from lib.imaging import read_image
from lib.inference.boxes import text_of
from lib.inference.conversion import TITLES, Row, save
from lib.inference.drawing import stack
from lib.inference.files import BICUBIC, COMPARE, METRICS_JSON, METRICS_TSV, ORIGINAL, SHEETS
from lib.inference.page import save_page
from lib.inference.tables import method_table, summarize
from lib.runtime.console import printable
from lib.runtime.files import written_beside

SHEET = 8  # words on a sheet, at most
COLUMNS = ('image', 'result', 'method', 'label', 'string', 'right', 'score', 'psnr', 'ssim')


def print_readings(jobs, write):
    """A line for each word read: the image's name, in a photograph the word's corners, the string by each method."""
    for job in jobs:
        lines = {}
        for method, version in job.versions.items():
            for row in (row for row in version.rows if row.string is not None):
                title = '' if len(job.versions) == 1 else f'{TITLES.get(method, method)}: '
                lines.setdefault(row.box, []).append(f'{title}{row.string}')
        for box, strings in lines.items():
            write('\t'.join([printable(job.name), *filter(None, [box]), *strings]))


def report(rows, problems, args, vocabulary):
    """Print and save the figures; save the page and the sheets where they are wanted."""
    summary = summarize([row for row in rows if not row.box])
    text = method_table(summary, TITLES)
    if text:
        print(text, flush=True)
    save_metrics(rows, summary, problems, settings_of(args), args.out_path)
    if args.drawings:
        save_page(rows, args.drawings, args.folders, vocabulary.normalize)
    if args.sheets:
        save_sheets(rows, args.out_path)


def save_metrics(rows, summary, problems, settings, out_path):
    """Write metrics.tsv, a line for each Row, and metrics.json: means by method, settings, what was left out."""
    def plain(value):
        if isinstance(value, float):
            return f'{value:.4f}'
        return '' if value is None else str(int(value)) if isinstance(value, bool) else printable(value)

    def known(value):  # JSON has neither NaN nor infinity
        return value if math.isfinite(value) else None

    columns = COLUMNS + (('box',) if any(row.box for row in rows) else ())
    lines = io.StringIO()
    writer = csv.writer(lines, delimiter='\t', lineterminator='\n')  # puts a string with " in it into quotes
    writer.writerow(columns)
    for row in rows:
        values = {**dataclasses.asdict(row), 'right': row.correct}  # its name in the file is older
        writer.writerow([plain(values[column]) for column in columns])
    methods = {row['method']: {key: known(row[key]) for key in ('images', 'psnr', 'ssim', 'words', 'accuracy')
                               if row[key] is not None} for row in summary}
    content = {**settings, 'methods': methods, 'left_out': problems}
    for name, text in ((METRICS_TSV, lines.getvalue()), (METRICS_JSON, json.dumps(content, indent=1) + '\n')):
        with written_beside(Path(out_path) / name) as beside:
            beside.write_text(text, encoding='utf-8')


def settings_of(args):
    """What results and figures depend on beside images and labels; of a file that a flag names, its checksum counts."""
    def content(path):
        return f'{zlib.crc32(Path(path).read_bytes()):08x}' if path and os.path.isfile(path) else path

    return {**{name: getattr(args, name) for name in ('ds_scale', 'width', 'height', 'measured')},
            'weights': {method: content(path) for method, path in args.paths.items()},
            'background': [args.background, content(args.background_path)],
            'boxes': [*map(text_of, args.zoom), content(args.boxes)],
            'recognizer': None if args.no_read else [content(args.aster_path), args.beam_width,
                                                     *(['read_both'] if args.read_both else [])]}


def read_metrics(args, results, say):
    """The rows of these results, {name as `printable`: name}, in the metrics.tsv of an earlier run with the settings of
    this one, by the methods of this one; none where there is no such run. OSError or ValueError that names the file."""
    path = Path(args.out_path) / METRICS_TSV
    try:
        with open(path, encoding='utf-8', newline='') as file:
            lines = [line for line in csv.DictReader(file, delimiter='\t') if line['result'] in results]
        names = [entry.name for entry in dataclasses.fields(Row)]
        rows = [{name: line[name] or None for name in names if name in line} for line in lines]
        for row, line in zip(rows, lines):
            row.update({name: float(row[name]) for name in ('score', 'psnr', 'ssim') if row[name] is not None})
            row['result'] = results[row['result']]
            row['correct'] = {'0': False, '1': True}.get(line['right'])
            if row['score'] is not None:  # it was read, be it as nothing
                row['string'] = row['string'] or ''
        path = Path(args.out_path) / METRICS_JSON
        earlier = json.loads(path.read_text(encoding='utf-8'))
        weights = earlier.get('weights', {})
        earlier['weights'] = {method: weights.get(method) for method in args.paths}
        changed = [name for name, value in settings_of(args).items() if name not in earlier or earlier[name] != value]
        if changed:
            say(f'{printable(path)}: of a run with other {", ".join(changed)}: all images are converted again')
            return []
        return [Row(**row) for row in rows if row['method'] in (*args.paths, ORIGINAL)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OSError(f'{printable(path)}: {error.strerror}') from error
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f'{printable(path)}: not of an earlier run: {error!r}; move it away, or run without '
                         '--skip_existing') from error


def go_on(images, args, converter, say):
    """For --skip_existing: (rows of an earlier run, images that it has not done), both lists.

    images: [(path, name, result)]. One is done if its results are there and, where figures are wanted, its rows by
    every method, with the label that it has now. Errors as of `read_metrics`.
    """
    done = [image for image in images if converter.is_done(image[2])]
    rows = {}
    if args.metrics:
        for row in read_metrics(args, {printable(result): str(result) for _, _, result in done}, say):
            rows.setdefault(row.result, []).append(row)
        methods = {*args.paths, *([ORIGINAL] if args.ds_scale > 1 else [])}
        labels = {str(result): converter.labels.get(path) for path, _, result in done}
        rows = {result: mine for result, mine in rows.items() if {row.method for row in mine} == methods and
                all(row.box or row.label == (labels[result] and printable(labels[result])) for row in mine)}
        done = [image for image in done if str(image[2]) in rows]
    say(f'{len(done)} of {len(images)} images have their results already')
    done = {result for _, _, result in done}
    return [row for mine in rows.values() for row in mine], [image for image in images if image[2] not in done]


def save_sheets(rows, out_path):
    """Put drawings together: gained.png, words read from TextSR and not from bicubic; failed.png, not from TextSR.

    Of the failures those come first that bicubic reads, and then those that are read as they are.
    """
    right = {(row.result, row.method): row.correct for row in rows if row.correct is not None}
    names = [name for name in dict.fromkeys(result for result, _ in right)
             if (name, 'textsr') in right and (name, BICUBIC) in right]
    failed = [name for name in names if not right[name, 'textsr']]
    failed.sort(key=lambda name: (not right[name, BICUBIC], not right.get((name, ORIGINAL), False)))
    gained = [name for name in names if right[name, 'textsr'] and not right[name, BICUBIC]]
    for title, chosen in (('gained', gained), ('failed', failed)):
        path = Path(out_path) / SHEETS / f'{title}.png'
        if chosen:
            save(stack([read_image(Path(out_path) / COMPARE / name) for name in chosen[:SHEET]]), path)
        else:
            path.unlink(missing_ok=True)  # of an earlier run
