"""Reading, cleaning, splitting and caching of data sets of any layout."""
