"""Building blocks that know torch and einops alone: no biology here."""
