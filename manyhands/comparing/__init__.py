"""Two models side by side over the same prompts: quality, latency, cost, and how sure that is."""
