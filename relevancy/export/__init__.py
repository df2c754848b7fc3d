"""Maps for whole data sets: many rows in, sharded Parquet out, restartable at any moment."""
