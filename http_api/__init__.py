"""The HTTP layer: REST calls become orders, their ends become answers, what happens becomes a stream."""
