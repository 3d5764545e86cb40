"""A store in a folder that all ranks see: one host's disk, or NFS between hosts."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from commops.errors import RendezvousError
from commops.rendezvous.deadline import DEFAULT_TIMEOUT, Deadline
from commops.rendezvous.store import Store, encode_key
from commops.rendezvous.table import counter_after

__all__ = ["FileStore"]

# A key's file is named by a digest, so that any string has a valid name on any file system (those that fold
# case too), and holds:
#
#     0         8            12                 12 + n
#     | magic   | n (uint32) | key, n bytes     | value, to the end of the file |
_MAGIC = b"commops\x01"
_HEAD = struct.Struct("!8sI")
_KEY_FILE = "key-"
_TEMPORARY = "new-"
_LOCK = "lock"
_OWN = (
    0o1700  # mode of a folder that goes with its last key. The sticky bit, of no other use here, is our mark
)


class FileStore(Store):
    """Keys are files of one folder, made if it is missing (not so its parent). Each job needs its own.

    A value is written to a temporary file that is then renamed, so a reader sees all of it or none. Whatever
    changes a key does so under one lock file, by ``flock``, which the kernel releases when its owner dies. A
    waiting call polls, after 1 ms at first and every 20 ms at last: inotify would be quicker, but reports
    nothing that another host does to an NFS folder. Nothing is synced to disk: no key outlives its job.

    `close` removes the lock file if no key is left, and the folder if a FileStore has made it. What a killed
    job leaves stays.

    Parameters
    ----------
    directory : str or path
        The folder. One that every user of the machine may write to is refused.
    timeout : float
        Default time-out of each call, in seconds.

    Raises
    ------
    RendezvousError
        If the folder cannot be made or used.
    """

    def __init__(self, directory: str | os.PathLike[str], *, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(timeout=timeout)
        self._folder = Path(os.path.abspath(directory))
        with self._explained():
            self._make_folder()

    def __repr__(self) -> str:
        return f"FileStore({os.fspath(self._folder)!r})"

    def _set(self, key: str, value: bytes, deadline: Deadline) -> None:
        with self._locked(deadline):
            self._write(key, value)

    def _get(self, key: str, deadline: Deadline) -> bytes | None:
        with self._explained():
            for _ in self._looks(deadline):
                value = self._read(key)
                if value is not None:
                    return value
        return None

    def _add(self, key: str, amount: int, deadline: Deadline) -> int:
        with self._locked(deadline):
            total = counter_after(self._read(key), amount)
            self._write(key, b"%d" % total)
        return total

    def _wait(self, keys: tuple[str, ...], deadline: Deadline) -> Sequence[str]:
        missing = list(keys)
        with self._explained():
            for _ in self._looks(deadline):
                missing = [key for key in missing if not self._path(key).exists()]
                if not missing:
                    # One that was seen at an earlier look may have been deleted since.
                    missing = [key for key in keys if not self._path(key).exists()]
                if not missing:
                    break
        return missing

    def _delete(self, key: str, deadline: Deadline) -> bool:
        with self._locked(deadline):
            try:
                self._path(key).unlink()
            except FileNotFoundError:
                return False
        return True

    def _discard(self, keys: tuple[str, ...], deadline: Deadline) -> int:
        with self._locked(deadline):
            there = [path for key in keys if (path := self._path(key)).exists()]
            for path in there:
                path.unlink()
        return len(there)

    def _count(self, prefix: str, deadline: Deadline) -> int:
        wanted = encode_key(prefix)
        with self._locked(deadline), os.scandir(self._folder) as entries:
            files = [Path(entry.path) for entry in entries if entry.name.startswith(_KEY_FILE)]
            if not wanted:
                return len(files)
            return sum(_split(file, file.read_bytes())[0].startswith(wanted) for file in files)

    def _compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline
    ) -> bytes | None:
        with self._locked(deadline):
            stored = self._read(key)
            if stored != expected:
                return stored
            self._write(key, value)
        return value

    def _close(self) -> None:
        """Tidy up if nobody has a key here. No file stays open between calls."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                self._remove_lock()
            if self._folder.stat().st_mode & 0o1777 == _OWN:
                self._folder.rmdir()  # or not, if anything is in it

    def _remove_lock(self) -> None:
        """Remove the lock file if nothing else is there; whoever has the lock now tidies up later."""
        descriptor = self._lock_file(0)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current(descriptor) and os.listdir(self._folder) == [_LOCK]:
                (self._folder / _LOCK).unlink()
        finally:
            self._unlock(descriptor)

    # ---- files

    def _make_folder(self) -> None:
        """Make the folder if it is missing, and see whether it will do."""
        while True:
            with contextlib.suppress(FileExistsError):
                try:
                    self._folder.mkdir(mode=_OWN)
                except FileNotFoundError as error:
                    raise RendezvousError(
                        f"{self!r}: there is no folder {os.fspath(self._folder.parent)!r} to make it in; "
                        "make that, or name another place"
                    ) from error
            try:
                mode = self._folder.stat().st_mode
                break
            except FileNotFoundError:
                if self._folder.is_symlink():
                    raise  # to nothing
                # Otherwise somebody has tidied up just then.
        if not stat.S_ISDIR(mode):
            raise RendezvousError(f"{self!r}: that is a file; name a folder (it is made if it is missing)")
        if mode & stat.S_IWOTH:
            raise RendezvousError(
                f"{self!r}: everyone on this machine may write to that folder; "
                "name one of your own (it is made if it is missing)"
            )

    def _path(self, key: str) -> Path:
        return self._folder / (_KEY_FILE + hashlib.sha256(encode_key(key)).hexdigest())

    def _read(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ESTALE:  # NFS: replaced by another host while it was open here
                return None
            raise
        return _split(path, content)[1]

    def _write(self, key: str, value: bytes) -> None:
        name = encode_key(key)
        temporary = self._folder / (_TEMPORARY + os.urandom(8).hex())
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.writelines((_HEAD.pack(_MAGIC, len(name)), name, value))
            os.replace(temporary, self._path(key))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _looks(self, deadline: Deadline) -> Iterator[None]:
        for _ in deadline.polls():
            self._check_open()
            # Opening a folder makes an NFS client ask whether it has changed; without that it may go on
            # believing for half a minute that a file which it once looked for in vain is still absent.
            os.close(os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            yield

    # ---- the lock

    @contextlib.contextmanager
    def _locked(self, deadline: Deadline) -> Iterator[None]:
        # Each call opens the file anew: flock excludes two openings, also of one process.
        with self._explained():
            descriptor = self._lock(deadline)
            try:
                yield
            finally:
                self._unlock(descriptor)

    def _lock(self, deadline: Deadline) -> int:
        """Return a descriptor of the lock file that has the lock."""
        for _ in deadline.polls():
            self._check_open()
            try:
                descriptor = self._lock_file(os.O_CREAT)
            except FileNotFoundError:
                self._make_folder()  # somebody has tidied up
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    return descriptor
            except BlockingIOError:
                pass
            except BaseException:
                self._unlock(descriptor)
                raise
            self._unlock(descriptor)
        raise RendezvousError(
            f"{self!r}: waited {deadline.waited():.3g} s (time-out {deadline.timeout:g} s) for "
            f"{os.fspath(self._folder / _LOCK)!r}, which another process keeps locked"
        )

    def _unlock(self, descriptor: int) -> None:
        _lock_descriptors.discard(descriptor)
        # In words as well: closing alone leaves the lock to a child forked meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def _lock_file(self, flags: int) -> int:
        path = self._folder / _LOCK
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        _lock_descriptors.add(descriptor)
        return descriptor

    def _is_current(self, descriptor: int) -> bool:
        """Say whether this is still the lock file, or one that somebody has removed."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._folder / _LOCK))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RendezvousError(f"{self!r}: {error}") from error


def _split(path: Path, content: bytes) -> tuple[bytes, bytes]:
    """Return the key and the value that a key's file holds."""
    if len(content) >= _HEAD.size:
        magic, length = _HEAD.unpack_from(content)
        end = _HEAD.size + length
        if magic == _MAGIC and len(content) >= end:
            return content[_HEAD.size : end], content[end:]
    raise RendezvousError(f"{os.fspath(path)!r} was not written by a FileStore, or was damaged since")


# A child forked while another thread of its parent holds the lock shares the open file, and would keep the
# lock alive should the parent die. It has no use for it.
_lock_descriptors: set[int] = set()


def _close_inherited_locks() -> None:
    for descriptor in _lock_descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _lock_descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited_locks)
