"""What ``topwork new`` writes from."""
