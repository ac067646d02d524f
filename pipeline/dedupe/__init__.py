"""Raw store → tables of kept and rejected images and of captions."""
