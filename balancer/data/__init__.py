"""Reading, cleaning, splitting and caching of chest X-ray data sets."""
