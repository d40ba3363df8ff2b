"""The embedded MQTT 3.1.1 broker: amqtt's listeners above, packets, sessions and routing of its own below."""
