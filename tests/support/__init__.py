"""What tests share: a clean environment, required services, polling."""
