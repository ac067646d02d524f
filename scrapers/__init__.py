"""`pipeline scrape`: what touches the network. Needs neither torch nor pandas."""
