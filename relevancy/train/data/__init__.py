"""Training data: files and Hugging Face datasets -> dialogues with their pictures -> token ids, labels and pixels."""
