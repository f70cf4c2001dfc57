"""What computes. Comes in: an experiment. Goes out: a plan, a trained model, and what it is worth on rows.

Its packages follow the data, each importing only those before it: ``model`` (what trains, and where the cut is),
``encoding`` (texts to activations), ``evaluation`` (outputs to figures with intervals), ``training`` (activations to
weights). Above them ``preparation`` resolves an experiment into the values that they read.
"""

import os

# Read by MKL at its first matrix product: equal bits whatever the number of threads, at no cost in speed. Without it
# some processors divide one sum among threads where a batch is small.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
