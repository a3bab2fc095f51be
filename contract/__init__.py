"""The words every stage shares. Standard library only; imports none of the other rooms."""
