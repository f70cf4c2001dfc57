"""Rows in: read from files, checked row by row, divided into splits, labels turned into targets."""
