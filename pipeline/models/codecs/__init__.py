"""Image codecs (image ⇄ codes) behind one interface: VQGAN, OpenAI's dVAE, DiscreteVAE, our own."""
