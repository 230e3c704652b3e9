"""Errors of the machine as one line: the path, what happened, what to do.

Here alone errors of the disk, of memory and of processes become words for the user, for every command. Libraries
disguise some of these errors: torch has kinds of its own for full memory, and hides the error of a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from balancer.core.errors import BalancerError
from balancer.core.torchrun import after_a_loss

SPACE = "free space there, or name a folder on another disk"
PERMISSION = "change its permissions or its owner, or name another folder"
LIMIT = "raise the limit (see ulimit -a), or use fewer --jobs"
REMEDIES = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or name a folder on another disk",
    errno.EROFS: "this disk cannot be written; name a folder on another disk",
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "check the path; another program may have removed it",
    errno.ENOTDIR: "a part of the path is a file; give another path",
    errno.EEXIST: "a file is in the way; give another path",
    errno.EISDIR: "expected a file; give another path",
    errno.ELOOP: "the links go in a circle; repair them",
    errno.EMFILE: LIMIT,
    errno.ENFILE: LIMIT,
    errno.EAGAIN: LIMIT,
    errno.EPIPE: "the program that read it has ended",
    errno.EBUSY: "another program uses it; wait for it, or give another path",
}
REMEDY = "check the disk or the network drive"
MEMORY = "use smaller images, a smaller batch_size or fewer --jobs, or a machine with more memory"
_FULL_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|bad_alloc|_ALLOC_FAILED", re.I)
_CUT_ARRAY = re.compile(r"\d+ requested and \d+ written")  # numpy's words for a full disk
_LOST_RANK = re.compile(r"gloo[/\\]|gloo::|ProcessGroup|NCCL|c10d|Connection \w+ by peer")  # torch.distributed's
_WHY_LOST = re.compile(r"Connection \w+ by peer|Timed? ?out[^.\n]*", re.I)
_NO_HOME = re.compile(r"determine (the )?home directory", re.I)
_FAILED_SAVE = re.compile(r"unexpected pos|PytorchStreamWriter|unable to write to file")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory is full, of this machine or of its GPU."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    # By name, since importing torch takes seconds: its own class, whatever the text, or a plain error of its CPU side.
    return type(error).__name__ == "OutOfMemoryError" or _FULL_MEMORY.search(str(error)) is not None


def explain(error: BaseException) -> str | None:
    """Return one line on an error of the machine; None for any other error, such as a fault of this program."""
    if is_out_of_memory(error):
        return f"memory is full ({_line(error)}); {MEMORY}"
    if isinstance(error, RuntimeError) and _FAILED_SAVE.search(str(error)):
        return f"a file could not be written ({_line(error)}): the disk is full, or went away; {SPACE}"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return f"no thread could be started; {LIMIT}"
    if isinstance(error, RuntimeError) and _LOST_RANK.search(str(error)):
        why = _WHY_LOST.search(str(error))
        return (
            f"another rank of this torchrun ended or does not answer ({why[0] if why else _line(error)}); "
            + after_a_loss()
        )
    if isinstance(error, RuntimeError) and _NO_HOME.search(str(error)):
        return "there is no home folder; set HOME, or BALANCER_CACHE for the cache"
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        name = error.object[max(error.start - 60, 0) : error.end + 60]
        return f"a name is not UTF-8 (near {name!r}); rename the file"
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "a path holds a null character; correct the path"
    return None


def _explain_os_error(error: OSError) -> str:
    if error.errno is None:  # raised by a library, which says itself what it met
        return f"{type(error).__name__}: {_line(error)}"
    remedy = REMEDIES.get(error.errno, REMEDY)
    what = error.strerror or os.strerror(error.errno)
    return f"{shown(error.filename)}: {what}; {remedy}" if error.filename is not None else f"{what}; {remedy}"


def shown(path: object) -> str:
    """Return a path as text that can be printed, also where its name is not UTF-8 or has a line break."""
    text = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    printable = text.encode(errors="backslashreplace").decode()
    return " ".join(printable.split("\n"))


def _line(error: BaseException) -> str:
    """Return the first line of an error that is not empty, else the error's kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def explained(remedy: str = "", kind: type[Exception] = Exception) -> Iterator[None]:
    """Turn an error of the machine into an error for the user.

    Args:
        remedy: what to do besides, such as how to continue.
        kind: the errors that are looked at.

    Raises:
        BalancerError: in place of an error that :func:`explain` knows.
    """
    try:
        yield
    except kind as error:
        line = None if isinstance(error, BalancerError) else explain(error)
        if line is None:
            raise
        raise BalancerError(f"{line}; {remedy}" if remedy else line) from error


@contextlib.contextmanager
def naming(path: object, instead_of: object = None) -> Iterator[None]:
    """Give an error of the disk the path that it belongs to: a failed write through an open file has none.

    Args:
        path: a path, or words for what was written.
        instead_of: a helper file, which says nothing to the user.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if _CUT_ARRAY.fullmatch(str(error)) or _FAILED_SAVE.search(str(error)):  # numpy and torch hide the number
            inner = error.__context__
            number = (inner.errno if isinstance(inner, OSError) else None) or errno.ENOSPC
            raise OSError(number, os.strerror(number), str(path)) from error
        if isinstance(error, RuntimeError):
            raise
        if error.errno is not None and (error.filename is None or error.filename == str(instead_of)):
            error.filename = str(path)
        raise
