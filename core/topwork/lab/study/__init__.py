"""Studies: many trainings of one experiment, searched by Optuna. Only this package imports optuna."""
