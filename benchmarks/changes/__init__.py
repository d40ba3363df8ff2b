"""What a change of a feeder's config costs, from HTTP to the desktop and back."""
