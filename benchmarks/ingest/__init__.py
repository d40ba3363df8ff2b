"""What one hub process takes in: heartbeats and events of many farms, over an external broker."""
