"""Which parameter gets which learning rate."""
