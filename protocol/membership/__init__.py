"""Who belongs to a swarm and may do what there: its policy, certificates, rulings and invites.

Values and rules, no I/O: `policy.py` has the founding document whose hash is the swarm's id,
`certificates.py` what an admin signs about one peer, `invites.py` how a newcomer gets there,
`roles.py` what each call takes, `state.py` all that one member knows, and `gate.py` the verdicts
that a transport asks for. How these travel is left to the transports and the rooms above.
"""
