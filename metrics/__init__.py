"""What Prometheus is shown: how the service is, read from PostgreSQL when somebody asks."""
