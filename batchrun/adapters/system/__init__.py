"""Differences between the operating systems that batchrun runs on."""
