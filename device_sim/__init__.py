"""A farm in a box: feeders with their physics, and the reference desktop that drives them over MQTT.

It is a process of its own and knows nothing of the hub but the contract, `hub.protocol`.
"""
