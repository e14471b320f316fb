"""The client side: HTTP to the service, S3 to the storage, folders on this machine."""
