"""What is found on networks of which nothing was learned: one collection of captures left out after another."""
