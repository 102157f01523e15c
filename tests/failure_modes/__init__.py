"""Fifteen ways in which swarms like this one broke elsewhere, each a test here, named after it.

They were collected from the issue trackers and code of Petals, Parallax, exo, mesh-llm,
distributed-llama and llama.cpp's RPC. Each test's docstring says what broke there, and what must
hold here.
"""
