"""Methods and their recipes: what decides which code a value gets. The methods that there are stand in `methods.known`."""
