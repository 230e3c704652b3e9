"""Downloads with a hash check: a file appears under its name complete and as published, or not at all."""

from __future__ import annotations

import logging
from pathlib import Path

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.files import atomic_file

log = logging.getLogger("balancer")
TIMEOUT = 20.0  # seconds without a byte: a firewall that swallows packets must not hang a run


def download(url: str, path: Path, digest: str, algorithm: str = "sha256") -> None:
    """Download a file over HTTP and check its hash before the file gets its name. An existing file is replaced.

    ``digest`` are the first hex digits of the published hash, or all; ``algorithm`` is its name in :mod:`hashlib`.

    Raises:
        BalancerError: no connection, an error of the server, another hash, or a folder that cannot be written.
    """
    import requests  # here and not above: both take a third of a second
    from pooch import HTTPDownloader, file_hash

    by_hand = f"download {url} by hand and save it as {path}"
    log.info("downloading %s", url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as handle, progress.bar(1, f"fetching {path.name}", "B") as bar:
            HTTPDownloader(progressbar=bar, timeout=TIMEOUT)(url, handle, None)  # sets the bar's total
            actual = file_hash(handle.name, algorithm)
            if not actual.startswith(digest):
                raise BalancerError(
                    f"{url} gave a file with {algorithm} {actual}, expected {digest}; the file was not kept;"
                    f" try again, or {by_hand}"
                )
    except requests.RequestException as error:
        cause = error.args[0] if error.args else error
        reason = str(getattr(cause, "reason", cause) or type(error).__name__).splitlines()[0]
        raise BalancerError(f"{url} cannot be downloaded ({reason}); try again, or {by_hand}") from error
    except OSError as error:
        raise BalancerError(
            f"{path} cannot be written ({error.strerror}); free space or name another folder"
        ) from error
