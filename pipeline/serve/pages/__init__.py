"""The pages: HTML made on the server; every text from the workspace is escaped."""
