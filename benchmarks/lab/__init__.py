"""The traffic laboratory: real programs in network namespaces, recorded with the truth per connection."""
