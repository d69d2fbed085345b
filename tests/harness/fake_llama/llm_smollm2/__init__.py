"""The package of the weights: it is found and never imported."""

message = "nobody imports this"
raise ImportError(message)
