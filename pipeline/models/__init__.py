"""What torch knows: tokenizers, image codecs, the DALL·E transformer. Floor 3: no stage."""
