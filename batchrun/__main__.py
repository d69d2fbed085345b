"""``python -m batchrun`` is the command ``batchrun``."""

from batchrun.cli.main import main

main()
