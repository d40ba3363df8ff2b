"""The hub and a farm in virtual time: one seed is one schedule, with everything in it that may go wrong."""
