"""Where bytes are kept: images and the files of models, behind one small Protocol."""
