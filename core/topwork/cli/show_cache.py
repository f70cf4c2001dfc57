"""``topwork cache``."""

from collections.abc import Sequence

from topwork.cli.format import Format
from topwork.cli.output import write_rows
from topwork.cli.tables import console, format_bytes, table
from topwork.engine.encoding.store.cache_folder import CacheEntry, cache_folder, list_entries, prune
from topwork.errors import ConfigurationError, StorageError


def show_entries(format: Format) -> None:
    """List what the activation store holds, the last used first."""
    found = list_entries(cache_folder())
    if format is not Format.TABLE:
        names = ("backbone", "cut", "kept", "type")
        rows = [
            {"key": entry.key, **dict(zip(names, _described(entry), strict=True)), "texts": entry.texts}
            | {"bytes": entry.bytes, "days_unused": entry.unused}
            for entry in found
        ]
        write_rows(rows, format)
        return
    if not found:
        console.print(f"nothing is stored in {cache_folder()}", soft_wrap=True)
        return
    shown = table("key", "backbone", "cut", "kept", "type", "#texts", "#size", "#last used")
    for entry in found:
        described = _described(entry)
        used = f"{entry.unused:.0f} days ago" if entry.unused >= 1 else "today"
        shown.add_row(entry.key[:12], *described, f"{entry.texts:,}", format_bytes(entry.bytes), used)
    console.print(shown)
    total = sum(entry.bytes for entry in found)
    console.print(f"{format_bytes(total)} in {cache_folder()}", soft_wrap=True)


def verify_entries() -> None:
    """Read everything that is stored and compare it with its sha256.

    Raises:
        StorageError: something is damaged.
    """
    found = list_entries(cache_folder())
    errors = [error for entry in found for error in entry.errors()]
    if errors:
        again = "what is damaged is encoded again by the next run that needs it"
        raise StorageError("\n".join([*errors, f"{len(errors)} files are damaged; {again}"]))
    shards = sum(len(entry.manifest.shards) for entry in found if entry.manifest)
    console.print(f"{shards} files in {len(found)} folders are as they were written")


def prune_entries(keys: Sequence[str], unused: float | None) -> None:
    """Remove what is named, or was not used for so many days, and say what it was.

    Raises:
        ConfigurationError: neither is given, or a key is unknown.
    """
    if not keys and unused is None:
        raise ConfigurationError("say what to remove: keys, as `topwork cache list` shows them, or --unused DAYS")
    removed, busy = prune(cache_folder(), keys=keys, unused=unused)
    for entry in removed:
        console.print(f"removed {entry.key[:12]}, {entry.texts:,} texts, {format_bytes(entry.bytes)}")
    for entry in busy:
        console.print(f"kept {entry.key[:12]}: a process is adding to it")
    if not removed and not busy:
        console.print(f"nothing was unused for {unused:g} days")


def _described(entry: CacheEntry) -> tuple[str, str, str, str]:
    """Backbone, last stage left of the cut, what is kept, and its type."""
    if entry.manifest is None:
        return "damaged" if entry.damaged else "unfinished", "", "", ""
    key = entry.manifest.key
    match key:
        case {"backbone": str(backbone), "stages": [*_, str(last)], "keeps": str(keeps), "dtype": str(dtype)}:
            return backbone.rpartition(".")[2], f"after {last}", keeps, dtype
    return "unknown", "", "", ""
