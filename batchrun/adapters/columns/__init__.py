"""The columns of results, attempts and usage; records become columns, and columns records."""
