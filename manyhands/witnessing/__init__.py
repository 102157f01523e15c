"""A witness as a service: it signs, over HTTP, that logs only grow."""
