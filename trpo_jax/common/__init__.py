"""For every module above: arithmetic on trees, sums over batches, checks of plain arguments."""
