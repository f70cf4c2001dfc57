"""Hidden states to one vector per text."""
