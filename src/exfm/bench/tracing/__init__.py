"""`exfm trace`: where requests' time goes, told, summed up and drawn."""
