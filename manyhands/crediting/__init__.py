"""Credit that issuers grant, at the front door: who asks witnesses, tells nodes, and shows it."""
