"""What every storey may use: arithmetic on trees, sums over batches, checks of plain arguments."""
