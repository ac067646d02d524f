"""Image codecs: pictures ⇄ codes, one small file each behind one interface."""
