"""How often answers flip between runs, from their directories."""
