"""Read tables as people have them: omics matrices, clinical columns, TCGA barcodes."""
