"""What a laboratory does with runs: carry them out, track them, draw them."""
