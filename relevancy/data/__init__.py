"""What an input may be, one module for each kind."""
