"""A name -> a model in memory, and conversations -> its token ids and pixels."""
