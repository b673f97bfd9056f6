"""Tables of readings: figures by set, size and method, as Markdown, JSON and TSV."""
import json
import math
import statistics
from pathlib import Path

from lib.runtime.files import written_beside

COMBINED = 'combined'


def summarize(readings):
    """One dict a set, LR size and method: images, words (those with a label of which something counts), their accuracy
    in %, mean psnr in dB and ssim; None where there is no label or no reference. The psnr of a picture that a method
    restores exactly is infinite: it is left out of the means of all methods, which are NaN where nothing else is left.

    difference: of the accuracy to that of `first`, the first method of the set and size, in points; standard_error: of
    that, paired by word. Both None of the first method itself.

    With several sets, rows 'combined' pool the words of all, so that a set counts by its size.
    """
    groups, several = {}, len({reading.set for reading in readings}) > 1
    named = [(reading.set, reading) for reading in readings] + [(COMBINED, reading) for reading in readings if several]
    for name, reading in named:
        groups.setdefault((name, reading.lr_size, reading.method), []).append(reading)
    groups = {key: (members, [member for member in members if member.psnr is not None])
              for key, members in groups.items()}
    exact = {}  # {(set, LR size): places of pictures that some method restores exactly}
    for (name, lr_size, _), (_, referenced) in groups.items():
        exact.setdefault((name, lr_size), set()).update(
            place for place, member in enumerate(referenced) if math.isinf(member.psnr))
    rows, firsts = [], {}
    for (name, lr_size, method), (members, referenced) in groups.items():
        psnr = [member.psnr for place, member in enumerate(referenced) if place not in exact[name, lr_size]]
        labelled = [member.correct for member in members if member.correct is not None]
        first, reference = firsts.setdefault((name, lr_size), (method, labelled))
        difference, error = paired(labelled, reference) if method != first else (None, None)
        rows.append({
            'set': name, 'lr_size': lr_size, 'method': method, 'images': len(members), 'words': len(labelled) or None,
            'accuracy': 100 * sum(labelled) / len(labelled) if labelled else None,
            'psnr': (statistics.fmean(psnr) if psnr else math.nan) if referenced else None,
            'ssim': sum(member.ssim for member in referenced) / len(referenced) if referenced else None,
            'first': first, 'difference': difference, 'standard_error': error,
        })
    return rows


def paired(correct, reference):
    """Mean difference, in points, of two lists of booleans about the same words, and its standard error.

    (None, None) where they are not of the same words, or of less than two.
    """
    if len(correct) != len(reference) or len(correct) < 2:
        return None, None
    differences = [100 * (one - other) for one, other in zip(correct, reference)]
    return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def markdown_table(titles, sides, lines):
    """A markdown table. sides: '-' or 'r' (to the right) of each column."""
    head = '|' + ''.join('--:|' if side == 'r' else '---|' for side in sides)
    first, *others = ('| ' + ' | '.join(cell.replace('|', r'\|') for cell in line) + ' |' for line in [titles, *lines])
    return '\n'.join([first, head, *others])


def method_table(rows, titles):
    """A markdown table of `summarize`d rows of one set, '' where nothing was measured. titles: of methods."""
    columns = [(title, key, form) for title, key, form in
               (('PSNR (dB)', 'psnr', '.2f'), ('SSIM', 'ssim', '.4f'), ('words', 'words', 'd'),
                ('accuracy (%)', 'accuracy', '.1f')) if any(row[key] is not None for row in rows)]
    if not columns:
        return ''
    lines = [[titles.get(row['method'], row['method']),
              *(format(row[key], form) if row[key] is not None else '-' for _, key, form in columns)] for row in rows]
    return markdown_table(['method', *(title for title, _, _ in columns)], '-' + 'r' * len(columns), lines)


def markdown(rows, sets=None, title='Word accuracy (%), by size of the low-resolution image', differences=False):
    """Markdown tables of `summarize`d rows: word accuracy, then PSNR and SSIM where there are any.

    sets: names in the order of the table; one without rows is printed as '-'. differences: also those of the accuracies
    to that of the first method.
    """
    names = list(sets) if sets else list(dict.fromkeys(row['set'] for row in rows if row['set'] != COMBINED))
    if any(row['set'] == COMBINED for row in rows):
        names.append(COMBINED)
    cells = {(row['set'], row['method'], row['lr_size']): row for row in rows}
    sizes = list(dict.fromkeys(row['lr_size'] for row in rows))
    methods = list(dict.fromkeys(row['method'] for row in rows))

    def table(heading, columns, rendered):
        lines = []
        for name in names:
            words = next((str(row['words'] or 0) for row in rows if row['set'] == name), '-')
            for method in methods:
                values = [rendered(cells.get((name, method, size))) for size in columns]
                if words == '-' or any(value != '-' for value in values):
                    lines.append([name, words, method, *values])
                if words == '-':
                    break
        return f'{heading}\n\n{markdown_table(["set", "words", "method", *columns], "-r-" + "r" * len(columns), lines)}'

    tables = [table(title, sizes, lambda row: f'{row["accuracy"]:.1f}' if row and row['words'] else '-')]
    compared = list(dict.fromkeys(row['lr_size'] for row in rows if row['difference'] is not None))
    if differences and compared:
        first = next(row['first'] for row in rows if row['difference'] is not None)
        tables.append(table(f'Difference to {first} in points, with its standard error, paired by word', compared,
                            lambda row: f'{row["difference"]:+.1f} ± {row["standard_error"]:.1f}'
                            if row and row['difference'] is not None else '-'))
    measured = list(dict.fromkeys(row['lr_size'] for row in rows if row['psnr'] is not None))
    if measured:
        tables.append(table('PSNR (dB) / SSIM against the high-resolution image', measured,
                            lambda row: f'{row["psnr"]:.2f} / {row["ssim"]:.4f}'
                            if row and row['psnr'] is not None else '-'))
    apart = {name: max((row['images'] - (row['words'] or 0) for row in rows if row['set'] == name), default=0)
             for name in names if name != COMBINED}
    tables += [f'{name}: {count} more without a letter or digit in the label, for which no reading is right or wrong'
               for name, count in apart.items() if count]
    return '\n\n'.join(tables)


def save_tables(folder, rows, readings, text):
    """Write results.md, results.json and predictions.tsv into a folder, each written beside its place and renamed.

    predictions.tsv has a line for each reading, with what paired comparisons need; a figure that there is none of is
    empty.
    """
    def plain(value):
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def field(value):
        if isinstance(value, float):
            return f'{value:.4f}'
        return '' if value is None else str(int(value)) if isinstance(value, bool) else ' '.join(str(value).split())

    columns = ('set', 'lr_size', 'index', 'label', 'method', 'string', 'score', 'correct', 'psnr', 'ssim')
    lines = ['\t'.join(columns)] + ['\t'.join(field(getattr(r, c)) for c in columns) for r in readings]
    cells = [{key: plain(value) for key, value in row.items()} for row in rows]
    contents = {'results.md': text + '\n', 'results.json': json.dumps(cells, indent=1) + '\n',
                'predictions.tsv': '\n'.join(lines) + '\n'}
    for name, content in contents.items():
        with written_beside(Path(folder) / name) as partial:
            partial.write_text(content, encoding='utf-8', errors='backslashreplace')  # names need not be text
