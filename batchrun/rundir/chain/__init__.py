"""Runs whose input is the results of another run (``--from``)."""
