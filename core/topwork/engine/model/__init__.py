"""Comes in: plugin settings and label spaces. Goes out: a model divided at its cut, and the plan of what trains."""
