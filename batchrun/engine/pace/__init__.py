"""How fast an endpoint may be asked: the gate, its limits, what its server says of them."""
