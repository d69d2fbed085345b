"""What a server answered: completions, errors, headers, limits."""
