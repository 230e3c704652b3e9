"""The trials of a command, who runs them, and commands that repeat or compare trials."""
