"""The private names of torch and of Lightning that this package needs: here, and in no other file of it."""
