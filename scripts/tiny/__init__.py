"""The text that the built-in model `tiny` is made of, and the questions it is judged by.

`corpus.py` mixes documents from facts (`relations.py`, `about_manyhands.py`, `about_itself.py`),
tasks (`copying.py`, `arithmetic.py`) and `stories.py`; `chat.py` is their shape. `training.py`
learns them, `export.py` writes the files. `heldout.py` and `judging.py` are for judging alone.
"""
