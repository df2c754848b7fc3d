"""Methods that explain a token, all behind `relevancy.explain`: a table of them, and one module for each kind."""
