"""`classifier federate`: sites train one classifier together, and their images stay where they are."""
