"""``python -m topwork.cli``."""

from topwork.cli import main

main()
