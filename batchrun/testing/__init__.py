"""Public fakes, samples and a virtual clock, for this package's tests and for yours.

Nothing in the package imports them. Each fake passes the same exam as the real implementation
(``tests/contracts``).
"""
