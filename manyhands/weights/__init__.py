"""Getting a model's weights: from a hub or from peers, only what a span needs, checked, kept.

`store.py` keeps what is here of a model, `published.py` finds out what a hub has, `download.py`
and `from_peers.py` fetch a span's pieces into a store. Nothing is imported before it is needed.
"""
