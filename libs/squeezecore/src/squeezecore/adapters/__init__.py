"""The only IO of the library: store, embedded servers, archives, and what a user can do."""
