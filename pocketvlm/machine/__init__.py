"""What the machine is: its CPU, its libraries, and what has to be switched off or on in them."""
