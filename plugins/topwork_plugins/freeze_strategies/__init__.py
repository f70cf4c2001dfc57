"""Which backbone parameters train."""
