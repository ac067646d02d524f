"""Text tokenizers behind one interface: Hugging Face, YouTokenToMe, CLIP's BPE."""
