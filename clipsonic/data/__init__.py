"""From packages, pictures and videos to shards."""
