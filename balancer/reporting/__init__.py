"""How results are shown: documents, pages, plots, sheets of images."""
