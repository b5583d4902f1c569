"""LMDB folders, as LSUN comes: values by key, for any number of processes and sets."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pndm._errors import MissingFile, one_line
from pndm.data.decode import BadImage


class MissingData(MissingFile):
    """The files of a dataset are not there; the message says what to fetch, in one line."""


class Lmdb:
    """The values of an LMDB folder by key; BadImage where it is damaged.

    A process opens a folder once, for all that read it; a forked one opens it anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keys(self) -> list[bytes]:
        """All keys, in their order."""
        with self._read() as transaction:
            return list(transaction.cursor().iternext(keys=True, values=False))

    def __call__(self, key: bytes) -> io.BytesIO:
        with self._read() as transaction:
            return io.BytesIO(transaction.get(key))

    @contextmanager
    def _read(self) -> Iterator[Any]:
        """A transaction that reads."""
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
    if environment is not None:  # the parent's, of which a child frees its copy alone
        del _environments[folder]
        environment.close()
    environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    pages, size = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
    if pages * size > (folder / "data.mdb").stat().st_size:  # reading on would end the process
        environment.close()
        raise lmdb.Error(f"{pages} pages are noted and fewer are there")
    _environments[folder] = os.getpid(), environment
    return environment


_environments: dict[Path, tuple[int, Any]] = {}
"""The process that opened a folder, and what it opened."""
