"""The command ``batchrun``: click commands, one module each, loaded when called."""
