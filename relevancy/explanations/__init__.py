"""What a user asks for: explanations, comparisons and counterfactuals, and the results that come back."""
