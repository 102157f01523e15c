"""What a contributor runs: one node that serves a span of a model to the swarm."""
