"""From names to lines: finding files, opening them, decompressing, recoding."""
