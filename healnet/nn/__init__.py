"""Building blocks that depend on torch and einops alone: attention, feed-forward and positions."""
