"""What input files are, before anybody sends them: dialects, folders, duplicates."""
