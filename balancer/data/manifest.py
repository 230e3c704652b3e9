"""The columns of ``manifest.csv``, the only interface of synthesis and classifier: any generator can write one."""

MANIFEST_COLUMNS = ("file", "index", "seed", "sha256", "class", "split_hash")
