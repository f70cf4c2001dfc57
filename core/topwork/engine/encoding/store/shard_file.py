"""The file of a shard, written as its texts come: memory holds none of it.

It is a safetensors file with a header of a fixed length, which is filled in last, since only then the sizes are known.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.store.digests import SIZE, Digests
from topwork.errors import StorageError, reason_of
from topwork.files import reach, sha256_of, sync
from topwork.mapped import ArrayWriter, zeros

#: Bytes before the tensors: eight that say how long the header is, and the header, blanks at its end included.
HEADER_BYTES = 512

#: What the names of files begin with that are being written.
UNFINISHED = ".shard."

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


class ShardFile:
    """A shard that is being written: first the values of its texts, then offsets and digests.

    Args:
        folder: that it is to lie in; nothing has its name before ``finish``.

    Raises:
        StorageError: no file can be made there.
    """

    def __init__(self, folder: Path, *, mode: int) -> None:
        self.folder = folder
        self.texts = 0
        self._mode = mode
        self._lengths = ArrayWriter(np.int64)
        self._digests = ArrayWriter(np.uint8, (SIZE,))
        self._rows = 0
        self._columns: tuple[int, ...] = ()
        self._dtype = torch.float32
        try:
            handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=folder)
        except OSError as error:
            raise self._unwritable(error) from error
        self._path = Path(name)
        self._file = os.fdopen(handle, "r+b")
        self._file.write(b" " * HEADER_BYTES)
        reach("file made", folder)

    @property
    def nbytes(self) -> int:
        """The size of the values so far."""
        row = int(np.prod(self._columns, dtype=np.int64)) * self._dtype.itemsize
        return self._rows * row

    def append(self, digests: Digests, values: Float[Tensor, "total ..."], lengths: Int[Tensor, " texts"]) -> None:
        """Add some texts.

        Args:
            values: of all of them, end to end.
            lengths: how many rows of these each has.

        Raises:
            StorageError: they cannot be written.
        """
        self._dtype, self._columns = values.dtype, tuple(values.shape[1:])
        try:
            self._file.write(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        except OSError as error:
            raise self._unwritable(error) from error
        self._rows += len(values)
        self._lengths.append(lengths.numpy())
        self._digests.append(digests.values)
        self.texts += len(digests)

    def finish(self) -> tuple[str, int]:
        """Write what is left, and give the file its name; return its sha256 in hexadecimal, and its size.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            with self._file as file:
                for part in self._tail():
                    file.write(part.data)
                size = file.tell()
                file.seek(0)
                file.write(self._header(size))
                file.flush()
                os.fsync(file.fileno())
            self._path.chmod(self._mode)
            reach("file written", self.folder)
            sha256 = sha256_of(self._path)
            self._path.replace(self.folder / f"{sha256}.safetensors")
            reach("file renamed", self.folder)
            sync(self.folder)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self.discard()
        return sha256, size

    def discard(self) -> None:
        """Remove what is written, unless it is finished."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _tail(self) -> Iterator[NDArray[np.uint8]]:
        """What follows the values: zeros up to a multiple of eight bytes, as numbers want it; offsets; digests."""
        yield np.zeros(self._filling, np.uint8)
        offsets = zeros(self.texts + 1, np.int64)
        np.cumsum(self._lengths.finish(), out=offsets[1:])
        yield offsets.astype("<i8", copy=False).view(np.uint8)
        yield self._digests.finish().reshape(-1)

    @property
    def _filling(self) -> int:
        return -self.nbytes % 8

    def _header(self, size: int) -> bytes:
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            "values": (_DTYPES[self._dtype], (self._rows, *self._columns)),
            "filling": ("U8", (self._filling,)),
            "offsets": ("I64", (self.texts + 1,)),
            "digests": ("U8", (self.texts, SIZE)),
        }
        sizes = [self.nbytes, self._filling, 8 * (self.texts + 1), SIZE * self.texts]
        ends = np.cumsum(sizes).tolist()
        described = {
            name: {"dtype": dtype, "shape": list(shape), "data_offsets": [end - length, end]}
            for (name, (dtype, shape)), length, end in zip(shapes.items(), sizes, ends, strict=True)
        }
        assert size == HEADER_BYTES + ends[-1]
        length = HEADER_BYTES - 8
        return length.to_bytes(8, "little") + json.dumps(described).encode().ljust(length)

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(f"{self.folder} could not be written: {reason_of(error)}")


def open_shard(path: Path) -> tuple[Digests, Ragged]:
    """Map a shard into memory: the digests of its texts, and what is kept of each.

    Raises:
        OSError, SafetensorError: it cannot be read, or is none.
    """
    with safe_open(path, framework="pt") as tensors:
        digests, offsets, values = (tensors.get_tensor(name) for name in ("digests", "offsets", "values"))
    return Digests(_as_array(digests)), Ragged(values, offsets)


def _as_array(digests: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = digests.numpy()
    return array
