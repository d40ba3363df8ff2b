"""What the product is about: sites, feeders, liveness, commands and their known ends."""
