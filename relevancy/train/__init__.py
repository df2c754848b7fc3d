"""Training LLaVA-style models in two stages: align (connector only), then finetune (connector and decoder)."""
