"""Read a split of a data set of the Hugging Face Hub, with the library ``datasets``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from topwork.data.files import OpenBytes, TemporaryContent
from topwork.errors import DataError, first_line
from topwork.experiment.source import HubDataset
from topwork.mapped import no_room

if TYPE_CHECKING:  # an extra, and a second to import
    import datasets
    import pyarrow

#: Seconds after which the Hub counts as out of reach.
PATIENCE = 10.0

#: How many rows are held at once, which are a row group of the Parquet file.
GROUP = 1024 * 1024


def read_from_hub(source: HubDataset, split: str) -> OpenBytes:
    """Return what opens a split as a Parquet file, with the names of classes in place of their numbers.

    Raises:
        DataError: it cannot be had; says how to go on without the Hub.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"hub:{source.name}: reading from the Hub needs the library datasets; "
            "install it with: pip install 'topwork[hub]'"
        ) from None
    _check_reachable(source, split)
    try:
        rows = datasets.load_dataset(source.name, source.config, split=split, revision=source.revision)
    except ConnectionError as error:
        raise _out_of_reach(source, split, error) from None
    except Exception as error:  # it raises what its many parts raise
        cause = f": {first_line(error.__cause__)}" if error.__cause__ else ""
        raise DataError(f"hub:{source.name}: {first_line(error)}{cause}") from None
    return _as_parquet(rows)


def _check_reachable(source: HubDataset, split: str) -> None:
    """Ask the Hub for the data set, unless it is not to be asked: ``datasets`` itself tries for half a minute.

    Raises:
        DataError: it does not answer, or has no such data set or revision.
    """
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.HfApi().dataset_info(source.name, revision=source.revision, timeout=PATIENCE)
    except huggingface_hub.errors.HfHubHTTPError as error:  # it answers
        raise DataError(f"hub:{source.name}: {first_line(error)}") from None
    except Exception as error:  # of its HTTP library, or of the operating system
        raise _out_of_reach(source, split, error) from None


def _out_of_reach(source: HubDataset, split: str, error: Exception) -> DataError:
    call = f"datasets.load_dataset({source.name!r}, split={split!r}).to_parquet('{split}.parquet')"
    return DataError(
        f"hub:{source.name}: {first_line(error)}; where the Hub cannot be reached, set HF_HUB_OFFLINE=1 to use a copy "
        f"that was loaded before, or write a file elsewhere with {call} and name it in place of hub"
    )


def _as_parquet(rows: "datasets.Dataset") -> OpenBytes:
    """Write a split to a temporary file.

    Raises:
        StorageError: the disk has no room for it.
    """
    table, temporary = rows.data.table, TemporaryContent()
    try:
        _write_parquet(table, rows.features, temporary.file)
        return temporary.finish()
    except OSError as error:
        raise no_room(table.nbytes, error) from None


def _write_parquet(table: "pyarrow.Table", features: Mapping[str, object], file: BinaryIO) -> None:
    import pyarrow.parquet

    writer: pyarrow.parquet.ParquetWriter | None = None
    for start in range(0, max(len(table), 1), GROUP):
        group = table.slice(start, GROUP)
        for number, (name, feature) in enumerate(features.items()):
            group = group.set_column(number, name, _with_names(group.column(name).combine_chunks(), feature))
        writer = writer or pyarrow.parquet.ParquetWriter(file, group.schema)
        writer.write_table(group)
    if writer:
        writer.close()


def _with_names(column: "pyarrow.Array", feature: object) -> "pyarrow.Array":
    """Write the names of classes in place of their numbers, also in lists of them; -1 means that there is none."""
    import datasets
    import pyarrow
    import pyarrow.compute

    if isinstance(feature, datasets.ClassLabel):
        number = pyarrow.compute.if_else(pyarrow.compute.less(column, 0), None, column)
        return pyarrow.array(feature.names).take(number)
    if isinstance(feature, datasets.List | datasets.LargeList) and isinstance(feature.feature, datasets.ClassLabel):
        names = _with_names(column.flatten(), feature.feature)
        lengths = pyarrow.compute.list_value_length(column).fill_null(0).to_numpy()
        offsets = pyarrow.array(np.concatenate([[0], lengths.cumsum()]), pyarrow.int64())
        return pyarrow.LargeListArray.from_arrays(offsets, names, mask=column.is_null())
    return column
