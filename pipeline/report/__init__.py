"""What a person looks at: a page with pictures and plots."""
