"""Peers that mean ill, over real sockets. docs/security.md says which claim each test is of."""
