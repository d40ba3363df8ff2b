"""Hours of a broker's life in minutes: many clients that come and go, good and bad, and what became of each message."""
