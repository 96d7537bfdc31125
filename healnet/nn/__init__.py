"""Building blocks without biology: attention, feed-forward, and positions in space, in time and in a graph."""
