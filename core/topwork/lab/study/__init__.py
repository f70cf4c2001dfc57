"""Studies: many trainings of one experiment, searched by Optuna. Only this room imports optuna."""
