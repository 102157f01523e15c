"""The gateway: a swarm behind the HTTP API that everybody's tools already speak.

The window is `command.gateway`, which `manyhands.cli` loads by name. Whoever imports this package
alone loads no web framework.
"""
