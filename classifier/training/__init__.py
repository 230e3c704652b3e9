"""One classifier: what it is trained on and how."""
