"""Opening an LMDB that may be damaged."""
import os

import lmdb


def open_lmdb(path, **options):
    """The LMDB environment of a folder, to read only; options as for `lmdb.open`.

    ValueError that names the folder where it is no LMDB, or where its data.mdb was cut off: to read a page that is
    missing would end the process with SIGBUS.
    """
    try:
        env = lmdb.open(str(path), readonly=True, lock=False, **options)
    except lmdb.Error as error:
        raise ValueError(f'{path}: not a readable LMDB ({error})') from error
    needed = (env.info()['last_pgno'] + 1) * env.stat()['psize']
    size = os.path.getsize(os.path.join(path, 'data.mdb'))
    if size < needed:
        env.close()
        raise ValueError(f'{path}: cut off: data.mdb has {size} bytes of {needed}')
    return env
