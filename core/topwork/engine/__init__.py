"""Model, plan, encoding, training, evaluation, and the trained model: torch lives here."""
