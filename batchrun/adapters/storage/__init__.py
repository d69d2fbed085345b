"""Storage of run directories: a disk or an object store."""
