"""The form of ``manifest.csv``: the one thing that synthesis and classifier share, so images of any generator can be ablated."""

MANIFEST_COLUMNS = ("file", "index", "seed", "sha256", "class", "split_hash")
