"""Parts in C++ and the Python that calls them; see `yantai/base/native/build.py`."""
