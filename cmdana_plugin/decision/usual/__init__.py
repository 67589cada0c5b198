"""What is usual here: a host's own days, what hosts come to in an hour, how rare evidence against them is."""
