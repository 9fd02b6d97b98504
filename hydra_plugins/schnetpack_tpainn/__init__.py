"""Hydra plugin that lets SchNetPack's command line find the T-PaiNN configs."""
