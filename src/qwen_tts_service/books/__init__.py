"""Reading books aloud: from a file to chapters, parts, and what is made of them."""
