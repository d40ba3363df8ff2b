"""The contract between a farm's desktop and the hub, version 1: topics, messages, limits. No I/O.

Everything here is plain synchronous code that the hub, the broker and the simulated farm share.
"""
