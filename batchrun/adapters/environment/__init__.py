"""The machine and the process: clock, signals, configuration, lists that come with the package."""
