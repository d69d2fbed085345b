"""``--provider local``: a llama.cpp server with a small model, in a separate process."""
