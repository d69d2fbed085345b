"""The machine and the process: clock, signals, configuration, lists in the package."""
