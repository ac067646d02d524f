"""`pipeline scrape`: everything that uses the network. Needs neither torch nor pandas."""
