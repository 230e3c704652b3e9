"""What lies in a folder of runs: which came from which, their main figures, and an index page."""
