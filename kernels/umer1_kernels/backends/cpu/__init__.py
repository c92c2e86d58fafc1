"""The compiled CPU backend. Importing it needs the extension; `choose` has made sure of that."""
