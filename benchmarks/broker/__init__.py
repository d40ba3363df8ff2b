"""What the embedded broker does in a second, beside mosquitto."""
