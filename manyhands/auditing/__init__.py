"""Looking again at work that peers committed to: `manyhands ledger audit run`."""
