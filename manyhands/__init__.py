"""The front door: the command line, the Python API, the local swarm, the built-in model."""
