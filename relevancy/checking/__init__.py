"""`relevancy check`: which method's maps can be trusted on this model and these pictures."""
