"""What all tests share: hypothesis judges laws, not how busy the machine is."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "manyhands", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("manyhands")
