"""``batchrun report``: a run as one page that opens anywhere, and stays small for any run."""
