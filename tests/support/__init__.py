"""What several tests share: waiting, reading topics whole, running workers."""
