"""Who does which part of a job, where processes of one or several machines share a folder.

A claim is a file that exactly one process can make: a link to a file that is whole already, or where there are no
links, a folder that is renamed. It ends with its owner. Where that is known to be dead, or has not touched its claim
for a while, another process makes the next claim of the part and leaves the old one, so no two processes can take over
one claim. No lock of the operating system is needed, which many network file systems do not have.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType

from topwork.errors import StorageError, reason_of
from topwork.process_name import is_dead_here, this_process

#: Seconds between two touches of the claims that a process has, and after which those of other machines end without.
HEARTBEAT_SECONDS, GRACE_SECONDS = 10.0, 60.0

#: Seconds without a touch after which one ends that is seen for the first time.
LONG_GRACE_SECONDS = 600.0

#: Seconds between two looks at claims that are waited for.
POLL_SECONDS = 0.5

#: What a file system without hard links says.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES)

#: The number of a claim of a part.
_CLAIM = re.compile(r"(?P<part>.+)\.(?P<number>\d+)")

OWNER_FILE = "owner.json"


@dataclass(frozen=True)
class _Claim:
    """A claim of another process."""

    path: Path
    number: int


class Claims:
    """The claims of this process in a folder, which are touched as long as it lives.

    Args:
        folder: where they are; it is made.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links = True
        self._held: dict[str, Path] = {}
        self._seen: dict[Path, tuple[int, float]] = {}  # when others last touched theirs, and when that was noticed
        self._over = threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.links = _can_link(folder)
        except OSError as error:
            raise self._unwritable(error) from error
        self._thread: threading.Thread | None = None  # who only looks has nothing to touch

    def __enter__(self) -> "Claims":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()
        for part in list(self._held):
            self.release(part)

    @property
    def method(self) -> str:
        """How claims are made, in words."""
        return "hard links" if self.links else "renamed folders"

    def take(self, part: str) -> bool:
        """Claim a part, unless a living process has it.

        Raises:
            StorageError: no file can be made in the folder.
        """
        newest = self._newest(part)
        if newest and not self._is_over(newest):
            return False
        path = self.folder / f"{part}.{newest.number + 1 if newest else 0}"
        try:
            made = _link(path) if self.links else _rename(path)
        except OSError as error:
            raise self._unwritable(error) from error
        if made:
            self._held[part] = path
            if self._thread is None:
                self._thread = threading.Thread(target=self._touch, daemon=True)
                self._thread.start()
        return made

    def release(self, part: str) -> None:
        """Let a part go that was taken."""
        path = self._held.pop(part)
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def others(self) -> bool:
        """Whether another living process has some part."""
        own = this_process()
        parts = {found["part"] for path in self.folder.glob("*") if (found := _CLAIM.fullmatch(path.name))}
        newest = [claim for part in parts if (claim := self._newest(part))]
        return any(_owner_of(claim.path) != own and not self._is_over(claim) for claim in newest)

    def tidy(self) -> None:
        """Remove what dead processes left: their claims, and what they were making."""
        own = set(self._held.values())
        for path in set(self.folder.glob("*")) - own:
            found = _CLAIM.fullmatch(path.name)
            left = self._is_over(_Claim(path, 0)) if found else self._age(path) > GRACE_SECONDS
            if left:
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def holding(self, part: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a part until the block ends; ``waiting`` is called once if another process has it."""
        told = False
        while not self.take(part):
            if not told:
                waiting()
            told = True
            sleep(POLL_SECONDS)
        try:
            yield
        finally:
            self.release(part)

    def _newest(self, part: str) -> _Claim | None:
        found = [path for path in self.folder.glob(f"{part}.*") if _CLAIM.fullmatch(path.name)]
        claims = [_Claim(path, int(path.name.rpartition(".")[2])) for path in found]
        return max(claims, key=lambda claim: claim.number, default=None)

    def _is_over(self, claim: _Claim) -> bool:
        """Whether the owner of a claim is dead, or has not touched it for long by this process's clock."""
        path = _owner_file(claim.path)
        try:
            touched = (path if path.exists() else claim.path).stat().st_mtime_ns  # a folder may have lost its file
        except OSError:
            return False  # it was just released; the next look shows so
        if is_dead_here(_owner_of(claim.path)):
            return True
        if path not in self._seen and self._age(claim.path) > LONG_GRACE_SECONDS:
            return True  # whatever the clocks of the machines
        before, noticed = self._seen.get(path, (None, 0.0))
        if before != touched:
            self._seen[path] = touched, monotonic()
            return False
        return monotonic() - noticed > GRACE_SECONDS

    def _age(self, path: Path) -> float:
        """Seconds since a claim was touched, by the clock of the file system; 0 where it is gone."""
        try:
            path = _owner_file(path)
            with tempfile.NamedTemporaryFile(prefix=".now.", dir=self.folder) as now:
                return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime
        except OSError:
            return 0.0

    def _touch(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            for path in list(self._held.values()):
                with suppress(OSError):  # it may be released meanwhile
                    os.utime(_owner_file(path))

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(f"{self.folder} cannot be written: {reason_of(error)}")


def _owner_file(claim: Path) -> Path:
    return claim / OWNER_FILE if claim.is_dir() else claim


def _owner_of(claim: Path) -> str:
    """The process that made a claim; nothing where that cannot be read, so that it ends like one of another machine."""
    try:
        return str(json.loads(_owner_file(claim).read_text(encoding="utf-8"))["owner"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def flock_works(folder: Path) -> bool:
    """Whether the file system of a folder knows ``flock``: it locks a file there that nobody else can have locked.

    Raises:
        OSError: no file can be made there.
    """
    with tempfile.NamedTemporaryFile(prefix=".flock.", dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def _can_link(folder: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix=".link.", dir=folder) as inside:
        one = Path(inside) / "one"
        one.touch()
        try:
            (Path(inside) / "two").hardlink_to(one)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        return True


def _link(path: Path) -> bool:
    """Make a claim by linking to it a file that is whole already; return whether no other process was quicker."""
    with tempfile.NamedTemporaryFile("w", prefix=".claim.", dir=path.parent, encoding="utf-8") as file:
        json.dump({"owner": this_process()}, file)
        file.flush()
        try:
            path.hardlink_to(file.name)
        except FileExistsError:
            return False
        return True


def _rename(path: Path) -> bool:
    """Make a claim by renaming a folder that is whole already, which never takes the place of one with files."""
    temporary = Path(tempfile.mkdtemp(prefix=".claim.", dir=path.parent))
    (temporary / OWNER_FILE).write_text(json.dumps({"owner": this_process()}), encoding="utf-8")
    try:
        temporary.rename(path)
    except OSError as error:
        shutil.rmtree(temporary)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True
