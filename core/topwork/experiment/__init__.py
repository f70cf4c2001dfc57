"""What a researcher writes: the schema of an experiment file, and loading it with exact error positions."""
