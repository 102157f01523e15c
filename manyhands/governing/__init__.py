"""How people govern the models of a swarm: rules, releases, advisories, terms; and the doors where
what they decided is asked for.

`rules_command.py` and `rules_file.py` set the rules, `releasing.py` and `advising.py` sign records
of them (`signing.py`), `showing.py` tells what is known of a model, and `gate.py` is what `serve`,
`up`, `generate` and `chat` go through. What all of it means is `protocol.membership`'s.
"""
