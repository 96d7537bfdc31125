"""Patch features on disk: files of TRIDENT and CLAM, read and written."""
