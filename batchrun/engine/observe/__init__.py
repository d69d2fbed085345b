"""A running engine as others see it: snapshots for the display, the money it spent."""
