"""How a request finds a chain of peers, and its answer."""
