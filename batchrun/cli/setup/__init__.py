"""Commands for before the first run: init, schema, completion, providers."""
