"""Pictures of scores, files for viewers (QuPath, OpenSlide, NIfTI), and a page for each patient."""
