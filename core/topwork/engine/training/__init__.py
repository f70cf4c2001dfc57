"""Comes in: a model, its plan, and examples. Goes out: the trained weights, and the metrics of every epoch."""
