"""`pipeline emoji`: the emoji of an installed font, with their Unicode names, through the whole pipeline."""
