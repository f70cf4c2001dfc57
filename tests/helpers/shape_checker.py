"""What checks the declared types and shapes at each call, in the tests alone."""

from beartype import BeartypeConf, beartype

#: As type checkers do, it takes an int where a float is declared.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
