"""The activation store: what the prefix gave for each text, on disk, filed under what was computed."""
