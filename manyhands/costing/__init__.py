"""What an answer costs on one's own machines, beside what somebody else's API charges."""
