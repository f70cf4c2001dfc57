"""``topwork cache``."""

from collections.abc import Sequence

from topwork.cli.tables import amount, console, table
from topwork.engine.store.caches import Holding, cache_folder, holdings, prune
from topwork.errors import ConfigurationError, StorageError


def show_holdings() -> None:
    """List what the activation store holds, the last used first."""
    found = holdings(cache_folder())
    if not found:
        console.print(f"nothing is stored in {cache_folder()}", soft_wrap=True)
        return
    shown = table("key", "backbone", "cut", "kept", "type", "#texts", "#size", "#last used")
    for holding in found:
        described = _described(holding)
        used = f"{holding.unused:.0f} days ago" if holding.unused >= 1 else "today"
        shown.add_row(holding.key[:12], *described, f"{holding.texts:,}", amount(holding.bytes), used)
    console.print(shown)
    total = sum(holding.bytes for holding in found)
    console.print(f"{amount(total)} in {cache_folder()}", soft_wrap=True)


def verify_holdings() -> None:
    """Read everything that is stored and compare it with its sha256.

    Raises:
        StorageError: something is damaged.
    """
    found = holdings(cache_folder())
    faults = [fault for holding in found for fault in holding.faults()]
    if faults:
        again = "what is damaged is encoded again by the next run that needs it"
        raise StorageError("\n".join([*faults, f"{len(faults)} files are damaged; {again}"]))
    shards = sum(len(holding.manifest.shards) for holding in found if holding.manifest)
    console.print(f"{shards} files in {len(found)} folders are as they were written")


def prune_holdings(keys: Sequence[str], unused: float | None) -> None:
    """Remove what is named, or was not used for so many days, and say what it was.

    Raises:
        ConfigurationError: neither is given, or a key is unknown.
    """
    if not keys and unused is None:
        raise ConfigurationError("say what to remove: keys, as `topwork cache list` shows them, or --unused DAYS")
    removed, busy = prune(cache_folder(), keys=keys, unused=unused)
    for holding in removed:
        console.print(f"removed {holding.key[:12]}, {holding.texts:,} texts, {amount(holding.bytes)}")
    for holding in busy:
        console.print(f"kept {holding.key[:12]}: a process is adding to it")
    if not removed and not busy:
        console.print(f"nothing was unused for {unused:g} days")


def _described(holding: Holding) -> tuple[str, str, str, str]:
    """Backbone, last stage left of the cut, what is kept, and its type."""
    if holding.manifest is None:
        return "damaged" if holding.damaged else "unfinished", "", "", ""
    key = holding.manifest.key
    match key:
        case {"backbone": str(backbone), "stages": [*_, str(last)], "keeps": str(keeps), "dtype": str(dtype)}:
            return backbone.rpartition(".")[2], f"behind {last}", keeps, dtype
    return "unknown", "", "", ""
