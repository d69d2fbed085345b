"""``--provider local``: a llama.cpp server with a small model, as a process of its own."""
