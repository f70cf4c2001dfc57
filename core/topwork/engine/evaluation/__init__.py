"""Comes in: a model and examples, or outputs of several models. Goes out: metrics and differences, with intervals."""
