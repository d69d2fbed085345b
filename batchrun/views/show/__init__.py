"""``batchrun show``: single rows of a run as a person reads them."""
