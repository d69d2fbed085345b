"""batchrun: chat completions over a data set, with every answer accounted for.

The command ``batchrun`` is the way in; see README.md. Importing the package is cheap: nothing
heavier than the error tree is loaded until a run starts.
"""

from batchrun.errors import BatchrunError

__version__ = "0.1.0"
__all__ = ["BatchrunError", "__version__"]
