"""Deployments of brsolver routers."""
