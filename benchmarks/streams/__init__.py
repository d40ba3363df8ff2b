"""What open event streams cost, and how soon they tell."""
