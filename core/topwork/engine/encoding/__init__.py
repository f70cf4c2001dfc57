"""Comes in: a model, and texts. Goes out: examples, that is what the cut keeps of each row, with its targets."""
