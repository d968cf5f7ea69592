"""The REST routes by subject. Each module makes one router from what it needs."""
