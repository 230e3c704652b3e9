"""Names of folders for classes: a class of a table may be called anything."""

from __future__ import annotations

import hashlib
import re

LONGEST = 60  # characters


def class_folder(name: str) -> str:
    """Return the name of a folder for a class: its own, or what of the name is safe in any file system and a hash.

    >>> class_folder("NORMAL"), class_folder("No finding")
    ('NORMAL', 'No finding')
    >>> class_folder("benign/unsure")
    'benign-unsure-62f1a652'
    """
    safe = re.sub(r"[^\w .+()-]+", "-", name).strip(" .-")[:LONGEST]
    return name if name == safe and name else f"{safe or 'class'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
