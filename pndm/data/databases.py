"""LMDB folders, the format of LSUN: values by key, for any number of processes."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pndm._errors import MissingFile, one_line
from pndm.data.decode import BadImage


class MissingData(MissingFile):
    """The files of a dataset are missing; the message says what to fetch."""


class Lmdb:
    """The values of an LMDB folder by key; BadImage if it is damaged.

    A process opens each folder once, for all readers; a forked process opens it again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keys(self) -> list[bytes]:
        """All keys, in order."""
        with self._read() as transaction:
            return list(transaction.cursor().iternext(keys=True, values=False))

    def __call__(self, key: bytes) -> io.BytesIO:
        with self._read() as transaction:
            return io.BytesIO(transaction.get(key))

    @contextmanager
    def _read(self) -> Iterator[Any]:
        """A read transaction."""
        try:
            import lmdb
        except ImportError:
            raise MissingData("LSUN is read with lmdb: pip install 'pndm[data]'") from None
        try:
            with _environment(self.folder.resolve()).begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise BadImage(
                f"{self.folder} cannot be read ({one_line(error)}): if it is damaged, get it again"
            ) from None


def _environment(folder: Path) -> Any:
    """The open environment of a folder in this process; lmdb refuses a second one."""
    import lmdb

    process, environment = _environments.get(folder, (0, None))
    if process == os.getpid():
        return environment
    if environment is not None:  # the parent's, of which a child closes only its copy
        del _environments[folder]
        environment.close()
    environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    pages, size = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
    if pages * size > (folder / "data.mdb").stat().st_size:  # reading would crash the process
        environment.close()
        raise lmdb.Error(f"{pages} pages are recorded but fewer exist")
    _environments[folder] = os.getpid(), environment
    return environment


_environments: dict[Path, tuple[int, Any]] = {}
"""The process that opened each folder, and its LMDB environment."""
