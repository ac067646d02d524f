"""`pipeline emoji`: the whole pipeline on the emoji of an installed font and their Unicode names."""
