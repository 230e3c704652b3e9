"""One root seed, many independent named streams."""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(root: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on the root seed and on every name, and on nothing else.

    >>> derive_seed(0, "z", 17) == derive_seed(0, "z", 17), derive_seed(0, "z", 17) == derive_seed(0, "z", 18)
    (True, False)

    Streams named apart (``("z", 17)``, ``("split",)``) are independent of one another and of the order in
    which they are asked for, so that image 17 is the same however many images are drawn. The names are
    hashed with their types and lengths, so ``("a", "bc")`` and ``("ab", "c")`` differ; a numpy integer is
    the integer that it equals.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (root, *names):
        text = (f"str:{part}" if isinstance(part, str) else f"int:{int(operator.index(part))}").encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(root: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator seeded by :func:`derive_seed`: the draws are the same whatever the training device."""
    import torch

    return torch.Generator().manual_seed(derive_seed(root, *names))
