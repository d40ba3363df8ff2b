"""What an admin may set, and the files in which to set it."""
