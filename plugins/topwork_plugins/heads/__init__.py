"""One task's output layer each."""
