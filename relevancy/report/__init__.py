"""From an export's Parquet files to one page: what holds on average, with intervals, and the rows worth looking at."""
